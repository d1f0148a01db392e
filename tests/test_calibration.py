"""Calibrated probabilities, intervals and sets of classes: closed forms and coverage."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit, logit, softmax

from plstm_graph.calibration import Calibration, combine
from plstm_graph.ensemble import Ensemble
from plstm_graph.errors import InputError


def regression(targets, *predictions) -> Calibration:
    return Calibration(
        "regression",
        [np.array(one, np.float32)[:, None] for one in predictions],
        np.array(targets, np.float32)[:, None],
    )


def test_the_quantile_is_the_one_that_is_counted_by_hand():
    """Nine errors 1 to 9: the interval of 0.9 takes the 9th, that of 0.5 the 5th, of 0.55 the 6th."""
    calibration = regression(range(1, 10), [0.0] * 9)
    for confidence, error in ((0.9, 9), (0.5, 5), (0.55, 6), (0.1, 1), (0.11, 2)):
        lower, upper = calibration.intervals(np.array([[2.0]]), None, confidence)
        assert (lower.item(), upper.item()) == (2 - error, 2 + error)


def test_too_few_validation_values_are_counted():
    calibration = regression([*range(9), np.nan, np.nan], [0.0] * 11)
    with pytest.raises(InputError, match=r"has 9 validation values, .* at most 0\.9, not 0\.91"):
        calibration.intervals(np.zeros((1, 1)), None, 0.91)
    with pytest.raises(InputError, match="has 0 validation values"):
        regression([np.nan], [0.0]).intervals(np.zeros((1, 1)), None, 0.1)


def test_several_networks_widen_where_they_differ():
    """Deviations 1 and 3 have the mean 2: difficulties are 3 and 5, and errors 6 and 5 count 2 and 1."""
    half = np.sqrt(0.5)
    calibration = regression([6, 5], [half, 3 * half], [-half, -3 * half])
    lower, upper = calibration.intervals(np.array([[0.0], [10.0]]), np.array([[0.0], [8.0]]), 0.6)
    np.testing.assert_allclose(lower, [[-4], [-10]], rtol=1e-6)
    np.testing.assert_allclose(upper, [[4], [30]], rtol=1e-6)
    alike = regression([1, 2], [0, 0], [0, 0])  # networks that never differ say nothing of difficulty
    assert alike.intervals(np.zeros((1, 1)), np.zeros((1, 1)), 0.6)[1] == 2


def test_targets_have_difficulties_of_their_own():
    """The first target's interval does not depend on the second's unit, nor on how networks differ there."""
    draws = np.random.default_rng(1)
    truth, networks = draws.normal(size=(20, 2)), draws.normal(size=(3, 20, 2))
    found = []
    for unit in (1.0, 1000.0):
        units = np.array([1.0, unit])
        calibration = Calibration("regression", list(networks * units), truth * units)
        lower, upper = calibration.intervals(np.zeros((1, 2)), np.ones((1, 2)) * units, 0.8)
        found.append((upper - lower) / units)
    np.testing.assert_allclose(found[0], found[1], rtol=1e-12)


@pytest.mark.parametrize("networks", [1, 2, 4])
@pytest.mark.parametrize("confidence", [0.5, 0.8, 0.95])
def test_intervals_cover_what_is_drawn_alike(networks, confidence):
    """Mean coverage over draws of 40 validation rows is between the confidence and that + 1/41, but noise."""
    generator, covered = np.random.default_rng(0), []
    for _ in range(400):
        noise = generator.gamma(1.0, size=(90, 1))
        truth = generator.standard_t(3, size=(90, 1)) * noise
        predictions = generator.normal(size=(networks, 90, 1)) * noise
        calibration = Calibration("regression", predictions[:, :40], truth[:40])
        lower, upper = calibration.intervals(*combine(predictions[:, 40:]), confidence)
        covered.append(((lower <= truth[40:]) & (truth[40:] <= upper)).mean())
    deviation = np.std(covered) / np.sqrt(len(covered))
    assert confidence - 3 * deviation < np.mean(covered) < confidence + 1 / 41 + 3 * deviation


def multiclass(generator, rows, scale):
    logits = generator.normal(size=(rows, 3)) * 2 + [0.0, 1.0, 3.0]
    classes = (logits + generator.gumbel(size=logits.shape)).argmax(1)
    return softmax(scale * logits, 1), classes[:, None].astype(float)


@pytest.mark.parametrize("scale", [0.3, 1.0, 4.0])
def test_a_temperature_undoes_the_factor_of_the_logits(scale):
    generator = np.random.default_rng(1)
    odds = generator.normal(size=(20000, 2)) * 1.5
    labels = (generator.random(odds.shape) < expit(odds)).astype(float)
    labels[::3, 1] = np.nan
    calibration = Calibration("classification", [expit(scale * odds)], labels)
    assert calibration.temperatures == pytest.approx([scale, scale], rel=0.04)
    exact = Calibration("classification", [expit(odds)], labels).temperatures
    assert calibration.temperatures == pytest.approx(scale * exact, rel=1e-3)
    wanted = expit(scale * odds / calibration.temperatures)
    np.testing.assert_allclose(calibration.probabilities(expit(scale * odds)), wanted, rtol=1e-4)
    shares, classes = multiclass(generator, 20000, scale)
    calibration = Calibration("multiclass", [shares], classes)
    assert calibration.temperatures == pytest.approx([scale], rel=0.04)
    assert calibration.probabilities(shares).sum(1) == pytest.approx(1)


def test_deviations_of_classes_are_of_calibrated_probabilities():
    labels = np.array([[0], [1], [1], [0], [1], [0]], np.float32)
    calibration = Calibration("classification", [np.full((6, 1), 0.9, np.float32) - 0.1 * labels], labels)
    outputs = [np.array([[0.6], [0.2]], np.float32), np.array([[0.9], [0.3]], np.float32)]
    found = Ensemble.combine(SimpleNamespace(task="classification", calibration=calibration), outputs)
    calibrated = [calibration.probabilities(output) for output in outputs]
    np.testing.assert_allclose(found.std, np.std(calibrated, axis=0, ddof=1), rtol=1e-5)
    assert not np.allclose(found.std, np.std(outputs, axis=0, ddof=1), rtol=0.1)


def test_labels_of_one_class_or_none_leave_probabilities_alone():
    given = np.array([[0.2, 0.9], [0.7, 0.4], [1e-3, 0.5]])
    calibration = Calibration("classification", [given], np.array([[1.0, np.nan]] * 3))
    assert calibration.temperatures.tolist() == [1, 1]
    np.testing.assert_allclose(calibration.probabilities(given), given, rtol=1e-9)


def test_classes_that_do_not_overlap_have_a_temperature():
    """Of 4 labels of each class, 5 of 6 count as what they are: logits of ±3 become ±log 5."""
    odds, labels = np.array([[3.0], [-3.0]] * 4), np.array([[1.0], [0.0]] * 4)
    calibration = Calibration("classification", [expit(odds)], labels)
    assert logit(calibration.probabilities(expit(odds))) == pytest.approx(np.sign(odds) * np.log(5), rel=1e-4)


@given(st.integers(0, 2**32 - 1), st.floats(0.05, 0.95), st.floats(0.05, 0.95))
def test_sets_are_nested_in_the_confidence(seed, one, other):
    generator = np.random.default_rng(seed)
    shares, classes = multiclass(generator, 60, 1.0)
    calibration = Calibration("multiclass", [shares[:30]], classes[:30])
    few, many = (calibration.sets(shares[30:], confidence) for confidence in sorted((one, other)))
    assert (few <= many).all()


def test_sets_hold_every_class_as_often_as_they_should():
    """Also the class of which there are few."""
    generator, covered = np.random.default_rng(2), [[], [], []]
    for _ in range(200):
        shares, classes = multiclass(generator, 400, 3.0)
        calibration = Calibration("multiclass", [shares[:200]], classes[:200])
        sets = calibration.sets(calibration.probabilities(shares[200:]), 0.8)
        own = classes[200:, 0].astype(int)
        for number in range(3):
            covered[number] += sets[own == number, number].tolist()
    assert [np.mean(part) > 0.79 for part in covered] == [True] * 3
    assert min(map(len, covered)) < 0.25 * max(map(len, covered))


def test_the_last_digit_decides_on_no_set():
    """Rows that are the quantile themselves stay in their sets if their probability is computed otherwise."""
    shares, classes = multiclass(np.random.default_rng(3), 60, 3.0)
    calibration = Calibration("multiclass", [shares], classes)
    probabilities = calibration.probabilities(shares)
    wanted = calibration.sets(probabilities, 0.7)
    for towards in (0.0, 1.0):
        other = np.nextafter(probabilities, towards)
        assert (calibration.sets(other, 0.7) == wanted).all()


def test_a_class_of_too_few_rows_is_in_every_set():
    shares = np.array([[0.1], [0.2], [0.3], [0.6], [0.8]])
    calibration = Calibration("classification", [shares], np.array([[0.0], [0.0], [0.0], [0.0], [1.0]]))
    sets = calibration.sets(calibration.probabilities(np.array([[0.01], [0.99]])), 0.8)
    assert sets[:, 0].tolist() == [[True, True], [False, True]]


def test_one_probability_calibrates_as_it_does_among_many():
    shares = torch.rand(1000, 2, generator=torch.Generator().manual_seed(0)).numpy()
    labels = (shares > 0.4).astype(float)
    labels[::5] = 1 - labels[::5]
    calibration = Calibration("classification", [shares], labels)
    whole = calibration.probabilities(shares)
    single = np.concatenate([calibration.probabilities(shares[[row]]) for row in range(1000)])
    np.testing.assert_allclose(single, whole, rtol=1e-12)
    sets = calibration.sets(whole, 0.7)
    assert (sets == np.concatenate([calibration.sets(whole[[row]], 0.7) for row in range(1000)])).all()
