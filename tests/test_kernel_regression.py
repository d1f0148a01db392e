"""The equations of a Gaussian process, against others that are solved in full."""

import pytest
import torch

from plstm_graph.models import kernel_regression


@pytest.fixture
def kernel():
    """Of ten points on a line, which is as smooth as it is positive definite."""
    points = torch.linspace(0, 3, 10, dtype=torch.double)[:, None]
    return torch.exp(-torch.cdist(points, points))


VALUES = torch.tensor([0.3, 0.5, -1.2, 0.8, 0.1, -1.5, 0.4, -0.2, 0.9, -0.1]).double()[:, None]


def test_errors_of_what_is_left_out_are_those_of_another_fit(kernel, monkeypatch):
    monkeypatch.setattr(kernel_regression, "_COLUMNS", 4)
    values, noise = VALUES.double(), kernel_regression._tuned(kernel, VALUES.double())[0]
    factor = kernel_regression._factor(kernel.clone(), values)
    errors = torch.cholesky_solve(values, factor) / kernel_regression._diagonal_of_inverse(factor)[:, None]
    for row in range(10):
        others = [other for other in range(10) if other != row]
        weights = torch.linalg.solve(kernel[others][:, others] + noise * torch.eye(9), values[others])
        torch.testing.assert_close(errors[row], values[row] - kernel[row, others] @ weights)


def test_errors_that_choose_are_those_of_what_is_left_out(kernel):
    values = torch.cat([VALUES, VALUES.flip(0)], 1).double()
    noise, error = kernel_regression._tuned(kernel, values)
    expected = 0.0
    for row in range(10):
        others = [other for other in range(10) if other != row]
        weights = torch.linalg.solve(kernel[others][:, others] + noise * torch.eye(9), values[others])
        expected += (values[row] - kernel[row, others] @ weights).square().sum().item()
    assert error == pytest.approx(expected)


@pytest.mark.parametrize(
    ("errors", "share"),
    [
        ([1.009, 1.1, 1.0, 1.2, 1.2, 1.2], 0.0),  # within a hundredth of the least: without the linear kernel
        ([1.011, 1.1, 1.0, 1.2, 1.2, 1.2], 0.1),
        ([1.3, 1.009, 1.2, 1.2, 1.2, 1.0], 0.05),
        ([1.3, 1.2, 1.2, 1.2, 1.2, 1.0], 0.75),
    ],
)
def test_the_linear_kernel_has_the_least_share_that_will_do(kernel, monkeypatch, errors, share):
    found = iter(errors)
    monkeypatch.setattr(kernel_regression, "_tuned", lambda kernel, values: (1.0, next(found)))
    assert kernel_regression.choose_linear_share(kernel, kernel, VALUES) == share


def test_landmarks_that_are_all_graphs_leave_nothing_out(kernel, monkeypatch):
    monkeypatch.setattr(kernel_regression, "_JITTER", 1e-9)
    values = torch.cat([VALUES, VALUES.flip(0)], 1).double()
    values[[1, 6], 1] = torch.nan
    expected, left_out = kernel_regression.solve(kernel.double(), values, True)
    rows = torch.arange(10)
    weights, others = kernel_regression.solve_by_landmarks(kernel, kernel.double(), rows, values, True)
    torch.testing.assert_close(kernel.double() @ weights, kernel.double() @ expected, atol=1e-4, rtol=0)
    torch.testing.assert_close(others, left_out, atol=1e-4, rtol=0, equal_nan=True)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("task", ["classification", "multiclass"])
def test_labels_that_nothing_says_anything_of_are_not_turned_round(kernel, task, seed):
    """Of a few graphs that are all a little alike, what the others say of each is its label's opposite."""
    draw = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 2, (10, 1), generator=draw).double()
    labels[:2] = torch.tensor([[0.0], [1.0]])
    labels = torch.cat([labels, 1 - labels], 1)
    kernel = 0.3 + 0.7 * torch.eye(10).double() + 0.01 * kernel
    scaled = (labels - labels.mean(0)) / labels.std(0, correction=0)
    weights, left_out = kernel_regression.solve(kernel, scaled, True)
    assert (left_out * scaled).sum() < 0
    scale, shift = kernel_regression.fit_log_odds(left_out, labels, task)
    assert scale.shape == shift.shape == (2,)
    assert (scale > 0).all()
    odds = kernel @ weights * scale + shift
    for column, label in zip(odds.T, labels.T, strict=True):
        assert column[label == 1].min() > column[label == 0].max()
    found = odds.softmax(1) if task == "multiclass" else odds.sigmoid()
    torch.testing.assert_close(found.mean(0), labels.mean(0), atol=0.1, rtol=0)


def test_landmarks_are_half_of_rare_labels(monkeypatch):
    monkeypatch.setattr(kernel_regression, "landmark_count", lambda graphs, systems: 20)
    labels = torch.zeros(1000, 2).double()
    labels[[5, 300, 999], 0] = 1.0
    labels[::50, 1] = 1.0
    labels[5, 1] = torch.nan
    found = kernel_regression.landmarks(labels, "classification")
    assert found.tolist() == sorted(set(found.tolist()))
    assert len(found) == 20
    assert 8 <= labels[found].nan_to_num().amax(1).sum() <= 12
    values = kernel_regression.landmarks(torch.randn(1000, 1), "regression")
    assert values.tolist() == torch.linspace(0, 999, 20).long().tolist()


@pytest.mark.parametrize("systems", [1, 12, 128, 617])
def test_any_number_of_graphs_is_fitted_in_minutes(systems):
    for graphs in (1, 12_000, 12_001, 40_000, 440_000, 3_000_000):
        number = kernel_regression.landmark_count(graphs, systems)
        assert 1 <= number <= graphs
        assert systems * graphs * number**2 <= 10 * 12_000**3
        assert graphs * number <= max(3e8, graphs**2 * (graphs <= 12_000))
        assert number == graphs or graphs > 12_000 or systems > 10
