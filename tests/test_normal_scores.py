"""Normal scores of targets: ranks, there and back."""

import numpy as np
import pytest
import torch
from data_modules import prepared
from scipy.stats import norm, rankdata, spearmanr

from plstm_graph import PLSTM
from plstm_graph.chem import read_smiles
from plstm_graph.commands.forest import count_fingerprints, forest_predictions
from plstm_graph.datasets import CSV
from plstm_graph.normal_scores import NormalScores
from plstm_graph.task import GraphTask


def fitted(targets):
    scores = NormalScores(targets.size(1))
    scores.fit(targets)
    return scores


def test_scores_are_those_of_mean_ranks():
    values = torch.tensor([3.0, 1.0, 700.0, 1.0, 5.0, 0.01])[:, None]
    expected = norm.ppf((rankdata(values[:, 0]) - 0.5) / 6)
    np.testing.assert_allclose(fitted(values)(values)[:, 0].numpy(), expected, atol=1e-6)


@pytest.mark.parametrize("known", [1, 2, 4, 128, 129, 300])
def test_what_is_missing_stays_so_of_any_number_of_values(known):
    values = torch.cat([torch.arange(known).float(), torch.tensor([torch.nan])])[:, None]
    found = fitted(values)(values)[:, 0]
    assert found[-1].isnan()
    assert found[:-1].isfinite().all()


def test_skewed_targets_have_normal_scores_and_come_back():
    values = torch.randn(5000, 2, generator=torch.Generator().manual_seed(0)).mul(2).exp()
    values[::3, 1] = torch.nan
    scores = fitted(values)
    found = scores(values)
    known = found[~values[:, 1].isnan(), 1]
    assert abs(known.mean()) < 0.02
    assert abs(known.std() - 1) < 0.02
    assert found[::3, 1].isnan().all()
    inside = (values[:, 0] > 0.02) & (values[:, 0] < 50)
    torch.testing.assert_close(scores.inverse(found)[inside, 0], values[inside, 0], rtol=1e-3, atol=1e-3)
    order = torch.linspace(-3, 3, 500)[:, None].expand(-1, 2)
    assert (scores.inverse(order).diff(dim=0) >= 0).all()
    assert scores.inverse(torch.full((1, 2), 99.0))[0, 0] == values[:, 0].max()


def test_one_value_is_predicted_where_there_is_no_other():
    scores = fitted(torch.full((4, 1), 7.0))
    assert scores.inverse(torch.zeros(1, 1)).item() == pytest.approx(7.0, abs=0.01)


def test_tasks_of_these_metrics_learn_scores():
    values = torch.linspace(1.0, 20.0, 100)[:, None].exp2()
    for metric, error in (("mae", 1e-3), ("spearman", 1e-3), ("rmse", 1.0)):
        task = GraphTask(PLSTM(1, 8, 1, heads=1), "regression", metric=metric)
        task.fit_target_scale(values)
        output = task._standardise(values)
        torch.testing.assert_close(task._finish(output), values, rtol=0, atol=error)
        assert (abs(output.median()) < 0.1) == (metric != "rmse")


def test_the_forest_beside_these_tasks_learns_scores_too(tmp_path):
    values = np.random.default_rng(0).normal(size=80)
    order = []
    for number, column in enumerate((values, np.exp(4 * values))):
        path = tmp_path / f"{number}.csv"
        rows = [f"{'C' * (1 + row % 9)}{'ON'[row % 2]}{'C' * (row // 18)},{column[row]}" for row in range(80)]
        path.write_text("\n".join(["smiles,y", *rows]))
        module = prepared(CSV(path, cache=tmp_path, split="random", metric="spearman"))
        features = count_fingerprints(map(read_smiles, module.dataset.smiles))
        order.append(forest_predictions(module, features, n_estimators=20, random_state=0)[:, 0])
        train = module.train_targets
        assert train.min() <= order[-1].min() < order[-1].max() <= train.max()
    assert spearmanr(*order).statistic == pytest.approx(1.0, abs=1e-3)
