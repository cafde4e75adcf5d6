"""The wrapper adds losses and predictions to a timm model and nothing else."""

import pytest
import timm
import torch
import torch.nn.functional as F

from visionssm.training import ImageClassifier

NETWORK = {"model_name": "test_convnext", "num_classes": 5}


def make(**kwargs):
    torch.manual_seed(0)
    return ImageClassifier({**NETWORK, **kwargs.pop("network", {})}, **kwargs)


def test_tensor_mode_gives_the_networks_logits():
    model = make().eval()
    inputs = torch.randn(2, 3, 32, 32)
    assert torch.equal(model(inputs), model.network(inputs))


def test_loss_is_cross_entropy_with_smoothing():
    model = make(label_smoothing=0.2).eval()
    inputs, targets = torch.randn(4, 3, 32, 32), torch.tensor([0, 1, 2, 4])
    expected = F.cross_entropy(model(inputs), targets, label_smoothing=0.2)
    assert torch.equal(model(inputs, targets, mode="loss")["loss"], expected)


def test_predictions_are_probabilities_with_their_targets():
    model = make().eval()
    predictions = model(torch.randn(3, 3, 32, 32), torch.tensor([4, 0, 1]), mode="predict")
    assert [prediction["target"] for prediction in predictions] == [4, 0, 1]
    assert all(abs(prediction["scores"].sum() - 1) < 1e-6 for prediction in predictions)


@pytest.mark.parametrize(
    ("targets", "mode", "message"),
    [(None, "loss", "targets=None"), (torch.tensor([0]), "train", "mode='train'")],
)
def test_bad_calls_are_refused(targets, mode, message):
    with pytest.raises(ValueError, match=message):
        make()(torch.randn(1, 3, 32, 32), targets, mode=mode)


def test_mmengine_does_not_initialise_a_second_time():
    model = make()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.init_weights()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_checkpointing_changes_neither_loss_nor_gradients():
    inputs, targets = torch.randn(4, 3, 32, 32), torch.tensor([0, 1, 2, 4])
    gradients = []
    for checkpointing in (False, True):
        model = make(grad_checkpointing=checkpointing)
        model(inputs, targets, mode="loss")["loss"].backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))
    assert model.network.stages[0].grad_checkpointing


@pytest.mark.parametrize("budget", [1.0, 0.4])
def test_a_compiled_network_is_one_graph_that_keeps_what_the_budget_allows(budget):
    inputs, targets = torch.randn(4, 3, 32, 32), torch.tensor([0, 1, 2, 4])
    kept, gradients = [], []
    backend = "aot_eager_decomp_partition"  # Inductor's division into two passes, no code
    for options in (
        {"compile": {"backend": backend, "fullgraph": True}},
        {"compile": {"backend": backend}, "activation_memory_budget": budget},
        {},
    ):
        torch.compiler.reset()
        model = make(**options)
        weights = {weight.data_ptr() for weight in model.parameters()}
        sizes = []

        def keep(tensor, weights=weights, sizes=sizes):
            sizes.append(tensor.nbytes if tensor.data_ptr() not in weights else 0)
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            loss = model(inputs, targets, mode="loss")["loss"]
        loss.backward()
        kept.append(sum(sizes))
        gradients.append([parameter.grad for parameter in model.parameters()])
    assert (kept[1] < 0.8 * kept[0]) == (budget < 1)
    for other in gradients[:2]:
        for got, expected in zip(other, gradients[2], strict=True):
            torch.testing.assert_close(got, expected)


@pytest.mark.parametrize(
    "options",
    [
        {"activation_memory_budget": 0.5},
        {"activation_memory_budget": 0.0, "compile": True},
        {"activation_memory_budget": 1.5, "compile": True},
    ],
)
def test_impossible_memory_budgets_are_refused(options):
    with pytest.raises(ValueError, match=r"activation_memory_budget=.*: expected more than 0"):
        make(**options)


@pytest.mark.parametrize("compile", [None, 0, 1, "inductor"])
def test_compile_is_a_bool_or_a_dict(compile):
    with pytest.raises(ValueError, match=rf"compile={compile!r}: expected True, False or a dict"):
        make(compile=compile)


@pytest.mark.parametrize(("compile", "compiled"), [(False, False), (True, True), ({}, True)])
def test_a_network_is_compiled_when_asked(compile, compiled):
    assert (make(compile=compile).network._compiled_call_impl is not None) == compiled


def test_drop_path_acts_in_training_only():
    model = make(network={"drop_path_rate": 0.9})
    inputs = torch.randn(2, 3, 32, 32)
    assert not torch.equal(model.train()(inputs), model.train()(inputs))
    assert torch.equal(model.eval()(inputs), model.eval()(inputs))


def test_our_models_are_known_to_timm():
    assert timm.is_model("vmamba_pico")


def test_a_pruned_network_trains_under_the_same_names():
    vim = {"model_name": "vim_tiny", "img_size": 32, "depth": 3, "embed_dim": 16}
    plain, pruned = make(network=vim), make(network=vim, pruning={"keep": {1: 0.5}})
    assert pruned.network.pruning.schedule.keep == {1: 0.5}
    pruned.load_state_dict(plain.state_dict())
    inputs, targets = torch.randn(2, 3, 32, 32), torch.tensor([0, 1])
    loss = pruned(inputs, targets, mode="loss")["loss"]
    assert loss != plain(inputs, targets, mode="loss")["loss"]
    loss.backward()
    assert all(parameter.grad is not None for parameter in pruned.parameters())
