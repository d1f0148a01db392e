"""Circular fingerprints: what they count, what does not change them, how they are trained beside nodes."""

import datamol as dm
import pytest
import torch
from tasks import training_loss
from torch_geometric.data import Batch

from plstm_graph import PLSTM
from plstm_graph.chem import mol_to_data, smiles_to_data
from plstm_graph.dag.refinement import mix
from plstm_graph.errors import InputError
from plstm_graph.explain import EncodedNetwork
from plstm_graph.models import GIN, CircularFingerprint, Graphs
from plstm_graph.models.fingerprint import environment_counts, environments
from plstm_graph.task import GraphTask
from plstm_graph.testing import assert_batch_invariant, assert_renumbering_invariant


@pytest.fixture(scope="module")
def molecules():
    return [mol_to_data(mol) for mol in dm.data.solubility()["mol"].sample(150, random_state=1)]


def nested(data, radius):
    """Environments of every node for every radius as nested tuples, by definition."""
    around = [[] for _ in range(data.num_nodes)]
    for (source, target), bond in zip(data.edge_index.T.tolist(), data.edge_attr.tolist(), strict=True):
        around[target].append((source, tuple(bond)))
    rounds = [[tuple(row) for row in data.x.tolist()]]
    for _ in range(radius):
        last = rounds[-1]
        rounds.append(
            [
                (last[node], tuple(sorted((last[other], bond) for other, bond in around[node])))
                for node in range(data.num_nodes)
            ]
        )
    return rounds


def test_colours_are_equal_where_environments_are(molecules):
    found, wanted = [[] for _ in range(4)], [[] for _ in range(4)]
    for data in molecules:
        colours = environments(Graphs.from_data(data), 3)
        for radius, names in enumerate(nested(data, 3)):
            found[radius] += colours[radius].tolist()
            wanted[radius] += names
    numbers = []
    for colours, names in zip(found, wanted, strict=True):
        pairs = set(zip(colours, names, strict=True))
        assert len(pairs) == len(set(colours)) == len(set(names))
        numbers.append(len(pairs))
    assert numbers == sorted(set(numbers))  # larger environments tell more atoms apart
    assert len(set().union(*found)) == sum(numbers)  # and colours of different radii differ


def test_counts_are_of_every_node_for_every_radius(molecules):
    batch = Batch.from_data_list([smiles_to_data("C"), *molecules[:20]])
    counts = environment_counts(
        Graphs.from_data(batch)._replace(num_graphs=batch.num_graphs + 1), 128, radius=2
    )
    assert torch.equal(counts[:-1].sum(1), 3.0 * batch.ptr.diff())
    assert not counts[-1].any()  # a graph without nodes
    for graph, data in enumerate(batch.to_data_list()):
        wanted = torch.zeros(128)
        for colours in environments(Graphs.from_data(data), 2):
            for colour in colours.tolist():
                wanted[colour % 128] += 1
        assert torch.equal(counts[graph], wanted)


@pytest.mark.parametrize("network", [PLSTM, GIN])
def test_predictions_depend_on_no_numbering_and_no_batch(network, molecules):
    torch.manual_seed(0)
    branches = [CircularFingerprint(64), CircularFingerprint(64, radius=3, columns=1)]
    model = network(hidden_channels=16, num_layers=2, branches=branches).double().eval()
    assert_renumbering_invariant(model, molecules[:50], atol=1e-9)
    assert_batch_invariant(model, molecules[:20])


def test_features_of_floating_point_are_read_as_float32(molecules):
    data = molecules[0]
    x = torch.nn.functional.one_hot(data.x[:, 0], 119)
    blind = Graphs.from_data(data)._replace(x=x.float(), edge_attr=None)
    wanted = environments(blind, 2)
    for other in (x.double(), x.bfloat16(), torch.where(x == 0, -0.0, x.float())):
        assert torch.equal(environments(blind._replace(x=other), 2), wanted)
    bonds = environments(Graphs.from_data(data)._replace(x=x.float()), 2)
    assert torch.equal(bonds[0], wanted[0])
    assert not torch.equal(bonds[1], wanted[1])


def test_bonds_count_where_the_network_reads_them(molecules):
    """A network without edge features is blind to them in its fingerprint as well."""
    data = molecules[0].clone()
    data.x = data.x.float()
    torch.manual_seed(0)
    branches = [CircularFingerprint(64)]
    model = GIN(hidden_channels=16, num_layers=1, in_channels=9, branches=branches).eval()
    before = model(data)
    data.edge_attr = data.edge_attr + 1
    assert torch.equal(model(data), before)


def test_further_hashes_count_the_same_environments_elsewhere(molecules):
    batch = Batch.from_data_list(molecules)
    fingerprint = CircularFingerprint(size=64, radius=1, channels=64, hashes=3).eval()
    for lin in fingerprint.lins:  # a readout that tells the counts themselves
        torch.nn.init.eye_(lin.weight)
        torch.nn.init.zeros_(lin.bias)
    parts = fingerprint(Graphs.from_data(batch)).chunk(3, dim=1)
    colours = environments(Graphs.from_data(batch), 1)
    different, shared = colours.unique(), []
    for part in parts:
        counts = torch.zeros_like(part)
        places = batch.batch.expand(2, -1), colours.remainder(64)
        counts.index_put_(places, torch.ones(1), accumulate=True)
        torch.testing.assert_close(part, torch.nn.functional.gelu((1 + counts).log() / 4))
        shared.append(torch.pdist(different[:, None].remainder(64).double(), p=0) == 0)
        colours, different = mix(colours), mix(different)
    # Two environments share one of 64 counts by chance, and those that do so seldom do in the next hash.
    for number, one in enumerate(shared):
        assert one.double().mean().item() == pytest.approx(1 / 64, rel=0.1)
        for other in shared[:number]:
            assert (one & other).double().mean() < 2 / 64**2


def test_a_fingerprint_of_first_columns_is_blind_to_the_others(molecules):
    batch = Batch.from_data_list(molecules)
    fingerprint = CircularFingerprint(size=64, radius=2, channels=16, columns=1).eval()
    before = fingerprint(Graphs.from_data(batch))
    for name, column, changes in (
        ("x", 0, True),
        ("x", 2, False),
        ("edge_attr", 0, True),
        ("edge_attr", 2, False),
    ):
        other = batch.clone()
        other[name][:, column] += 1
        assert torch.equal(fingerprint(Graphs.from_data(other)), before) != changes, (name, column)


@pytest.mark.parametrize(("channels", "hashes"), [(64, 2), (7, 1)])
@pytest.mark.parametrize("in_channels", [None, 9])
def test_a_prediction_is_the_mean_over_branches_and_a_branchs_over_its_heads(
    molecules, channels, hashes, in_channels
):
    torch.manual_seed(0)
    branches = [
        CircularFingerprint(64, 3, channels, hashes),
        CircularFingerprint(64, 4, channels, hashes, columns=1),
    ]
    model = PLSTM(
        hidden_channels=16, num_layers=2, roots=2, in_channels=in_channels, branches=branches
    ).eval()
    batch = Batch.from_data_list(molecules[:10])
    if in_channels:
        batch.x, batch.edge_attr = batch.x.float(), None
    embedding = model.embed(batch)
    parts = [branch(Graphs.from_data(batch)) for branch in branches]
    assert torch.equal(embedding[:, 16:], torch.cat(parts, dim=1))
    assert embedding.size(1) == model.embedding_channels == 16 + 2 * channels * hashes
    nodes = model.predictors[0](embedding[:, :16])
    hashed = [
        predictor(part)
        for predictor, part in zip(
            model.predictors[1:], embedding[:, 16:].split(channels, dim=1), strict=True
        )
    ]
    outputs = [nodes, *hashed]
    for found, output in zip(model.outputs(embedding), outputs, strict=True):
        assert torch.equal(found, output)
    for number, output in enumerate(outputs):
        assert not any(torch.allclose(output, other) for other in outputs[:number])
    # Nodes and each fingerprint weigh the same, however many ways of hashing there are.
    wanted = (nodes + sum(hashed) / hashes) / 3
    torch.testing.assert_close(model(batch), wanted)


@pytest.mark.parametrize("mixup", [0.0, 1.0])
def test_what_nodes_learn_does_not_depend_on_the_fingerprint(molecules, mixup):
    torch.manual_seed(0)
    network = PLSTM(hidden_channels=16, num_layers=2, branches=[CircularFingerprint(64)])
    task = GraphTask(network, mixup=mixup)
    batch = Batch.from_data_list(molecules[:20])
    batch.y = torch.randn(20, 1)

    def gradients():
        network.zero_grad()
        training_loss(task, batch, seed=1).backward()
        return {name: parameter.grad.clone() for name, parameter in network.named_parameters()}

    before = gradients()
    with torch.no_grad():
        for parameter in network.predictors[1:].parameters():
            parameter.mul_(2)
    after = gradients()
    assert any(grad.any() for grad in after.values())
    for name, grad in before.items():
        beside = name.startswith(("branches.1.", "predictors.1.", "predictors.2."))
        assert torch.equal(grad, after[name]) != beside, name


def second_task(network, weight, batch):
    """The task, and the loss of a training step on a batch of its own."""
    module = GraphTask(network, fingerprint_weight=weight)
    return module, training_loss(module, batch, seed=1)


@pytest.mark.parametrize("beside", [0, 1])
def test_a_second_task_adds_the_error_of_the_fingerprint(molecules, beside):
    torch.manual_seed(0)
    network = PLSTM(hidden_channels=16, num_layers=2, branches=[CircularFingerprint(64)] * beside)
    batch = Batch.from_data_list(molecules[:20])
    batch.y = torch.randn(20, 1)
    losses = []
    for weight in (0.0, 3.0):
        module, loss = second_task(network, weight, batch)
        losses.append(loss.item())
    counts = environment_counts(Graphs.from_data(batch), 1024, radius=2)
    predicted = module.fingerprint_task.lin(network.embed(batch)[:, :16])
    error = sum((p - (1 + c).log()).square().mean() for p, c in zip(predicted, counts, strict=True)) / 20
    assert losses[1] - losses[0] == pytest.approx(3 * error.item(), rel=1e-4)


def test_a_second_task_teaches_the_blocks_where_labels_are_missing(molecules):
    network = PLSTM(hidden_channels=16, num_layers=2)
    batch = Batch.from_data_list(molecules[:20])
    batch.y = torch.full((20, 1), torch.nan)
    for weight in (0.0, 1.0):
        network.zero_grad()
        second_task(network, weight, batch)[1].backward()
        for name, parameter in network.named_parameters():
            if name.startswith("predictors."):
                assert not parameter.grad.any()
            elif name.endswith(("lin_in.weight", "list.0.weight")):
                assert parameter.grad.any() == bool(weight), name


def test_a_second_task_is_for_networks_of_the_package():
    with pytest.raises(InputError, match="fingerprint_weight must be at least 0, not -1"):
        GraphTask(PLSTM(hidden_channels=16), fingerprint_weight=-1.0)
    stranger = torch.nn.Linear(1, 1)
    stranger.out_channels = 1
    with pytest.raises(InputError, match="networks of this package; set it to 0"):
        GraphTask(stranger, fingerprint_weight=1.0)


def test_what_cannot_be_is_refused(molecules):
    for name, value, lowest in (("size", 0, 1), ("radius", -2, 0), ("channels", 0, 1), ("hashes", 0, 1)):
        with pytest.raises(
            InputError, match=f"{name} of a fingerprint must be at least {lowest}, not {value}"
        ):
            CircularFingerprint(**{name: value})
    network = PLSTM(hidden_channels=16, num_layers=1, branches=[CircularFingerprint(32)]).eval()
    with pytest.raises(InputError, match=r"CircularFingerprint has no gradients .* trained without branches"):
        EncodedNetwork(network, molecules[0])
