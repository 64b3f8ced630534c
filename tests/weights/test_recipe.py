"""The training recipe on synthetic frames: what it exports is what it trained, exactly as sparse as asked."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from engine import Net
from PIL import Image

import sparse_icnet
from sparse_icnet import formats
from sparse_icnet.metrics import confusion_matrix, score
from sparse_icnet.network.graph import Graph, resized
from sparse_icnet.network.rewrite import optimize
from sparse_icnet.reference.evaluate import evaluate_float
from sparse_icnet.reference.oracle import Oracle

torch = pytest.importorskip("torch", reason="the recipe needs the extra 'train'")

from weights.recipe import (  # noqa: E402
    calibration,
    data,
    export,
    narrow,
    prune,
    pruning,
    qat,
    restore,
    teacher,
    training,
)
from weights.recipe.model import LEVELS, ICNet, layer_pixels, normalize  # noqa: E402

SIZE = (192, 192)
COLOURS = np.random.default_rng(7).integers(0, 256, (data.CLASSES, 3))


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> None:
    torch.set_num_threads(1)


def synthetic_frame(seed: int) -> data.Frame:
    """A 240x180 picture of noisy stripes and boxes whose colour tells the class."""
    rng = np.random.default_rng(seed)
    label = np.repeat(rng.integers(0, data.CLASSES, 6), 30)[:, None].repeat(240, 1).astype(np.uint8)
    for _ in range(6):
        y, x = rng.integers(0, 140), rng.integers(0, 180)
        label[y : y + 40, x : x + 60] = rng.integers(0, data.CLASSES)
    image = COLOURS[label] + rng.integers(-15, 16, (*label.shape, 3))
    picture = Image.fromarray(np.clip(image, 0, 255).astype(np.uint8))
    return data.Frame(f"{seed}.png", picture, Image.fromarray(label))


@pytest.fixture(scope="module")
def frames() -> list[data.Frame]:
    return [synthetic_frame(seed) for seed in range(8)]


def stage(pattern: str | None = "unstructured", epochs: int = 4, **changes) -> training.Stage:
    options = {
        "batch": 4,
        "augmentation": data.Augmentation(SIZE, (0.25, 0.5)),
        "rate": 2e-3,
        "average": 0.8,
        "warmup": 2,
        "prune_until": 0.5,
        "seed": 3,
    } | changes
    return training.Stage("stage", epochs, pattern=pattern, **options)


def random_model() -> ICNet:
    torch.manual_seed(5)
    return ICNet()


def new_trainer(frames: list[data.Frame], out: Path) -> training.Trainer:
    return training.Trainer(random_model(), stage(), frames, out, log=lambda _: None)


@pytest.fixture(scope="module", params=["unstructured", "block4x4"])
def trained(request, frames, tmp_path_factory) -> tuple[str, ICNet]:
    """A model trained and pruned for a moment, calibrated, then trained further with fake quantization."""
    out = tmp_path_factory.mktemp(request.param)
    model = training.Trainer(random_model(), stage(request.param, 12), frames, out, log=lambda _: None).run()
    calibration.calibrate(model, frames[:2], SIZE)
    quantized = stage(None, 2, quantize=True, rate=1e-4)
    model = training.Trainer(model, quantized, frames, out / "qat", log=lambda _: None).run()
    return request.param, model.eval()


@pytest.fixture(scope="module")
def finished(trained, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("export") / "icnet.npz"
    export.export(trained[1], path, SIZE)
    return path


@pytest.fixture(scope="module")
def exported(finished) -> Graph:
    return formats.load(finished)


def blob(frame: data.Frame) -> np.ndarray:
    return normalize(data.full_frame(frame, SIZE)[0][None])[0].numpy()


def test_exported_file_computes_what_was_trained(trained, exported, frames) -> None:
    model = trained[1]
    assert model.quantize
    differing = pixels = 0
    noise: list[tuple[int, int]] = []
    classes: list[np.ndarray] = []
    matrices = [np.zeros((data.CLASSES, data.CLASSES), np.int64) for _ in range(2)]
    for frame in frames:
        image, label = data.full_frame(frame, SIZE)
        x = blob(frame)
        with torch.no_grad():
            logits = model(normalize(image[None]))[0].numpy()
        ours = logits.repeat(8, 1).repeat(8, 2).argmax(0)
        engine = Oracle(exported, x).output().argmax(0)
        single, double = (
            evaluate_float(exported, x, dtype)[exported.output].argmax(0)
            for dtype in (np.float32, np.float64)
        )
        differing += int((ours != engine).sum())
        noise.append((int((single != double).sum()), int((single != engine).sum())))
        pixels += engine.size
        classes.append(engine)
        for matrix, prediction in zip(matrices, (ours, engine), strict=True):
            matrix += confusion_matrix(label, prediction)
    shares = np.bincount(np.ravel(classes), minlength=data.CLASSES) / pixels
    assert (shares > 0.02).sum() >= 3, f"class map too plain to tell anything: {shares}"
    # A single code that float32 rounds the other way moves many pixels of a frame of this barely trained network, or
    # none: chance is counted in frames.
    floor, worst = max(np.sum(noise, 0)), np.max(noise)
    assert differing <= 1.5 * floor + 2 * worst, (differing, noise, pixels)
    assert 1.5 * floor + 2 * worst < pixels / 10, "too noisy to tell anything"
    means = [score(matrix).mean for matrix in matrices]
    # Where rounding alone moves many pixels, on some CPUs, the mean may move by a quarter of their share.
    assert abs(means[0] - means[1]) <= max(0.005, floor / pixels / 4), means


def test_engine_runs_the_exported_file(exported, frames, tmp_path: Path) -> None:
    pytest.importorskip("sparse_icnet.run.session", reason="the engine is not there")
    path = tmp_path / "icnet.npz"
    formats.save(exported, path)
    net = sparse_icnet.load(path, size=SIZE, threads=1)
    x = blob(frames[0])
    classes = net(x[None])[0].argmax(0)
    np.testing.assert_array_equal(classes, Oracle(exported, x).output().argmax(0))
    assert len(np.unique(classes)) >= 3


def test_sparsity_of_the_file_is_exact(trained, exported) -> None:
    pattern, model = trained
    zeros = sum(int((c.weight == 0).sum()) for c in exported.convolutions)
    total = sum(c.weight.size for c in exported.convolutions)
    masks = {name: layer.mask.numpy() for name, layer in model.named_layers()}
    for convolution in exported.convolutions:
        np.testing.assert_array_equal(convolution.weight != 0, masks[convolution.name])
    if pattern == "unstructured":
        assert zeros == round(0.6 * total)
        return
    pixels = layer_pixels()
    skipped = sum(int((c.weight == 0).sum()) * pixels[c.name] for c in exported.convolutions)
    macs = sum(c.weight.size * pixels[c.name] for c in exported.convolutions)
    assert 0.6 <= skipped / macs < 0.6005
    for c in exported.convolutions:
        outputs, inputs, *kernel = c.weight.shape
        whole = np.pad(c.weight, ((0, -outputs % 4), (0, -inputs % 4), (0, 0), (0, 0))) != 0
        kept = whole.reshape(-(-outputs // 4), 4, -(-inputs // 4), 4, *kernel).sum((1, 3))
        full = min(4, outputs) * 4 if inputs % 4 == 0 else 4 * inputs
        assert set(np.unique(kept)) <= {0, full}, c.name
    high = {c.name: (c.weight == 0).mean() for c in exported.convolutions if c.name in ("conv1_2", "conv1_3")}
    assert min(high.values()) > 0.3, f"the high-resolution layers must take part: {high}"


def test_weights_do_not_saturate_pairs_of_products(exported) -> None:
    """No two neighbouring codes, whatever the activations; some channel of each layer uses the whole range."""
    for c in exported.convolutions:
        largest = int(np.abs(c.weight.astype(int)).max())
        assert largest == LEVELS, c.name
    assert 2 * 255 * LEVELS < 2**15


def test_narrowed_file_is_the_same_network(exported) -> None:
    wide = narrow.narrow(exported, 40)
    assert [type(op) for op in wide.ops] == [type(op) for op in exported.ops]
    for before, after in zip(exported.convolutions, wide.convolutions, strict=True):
        codes = after.weight.astype(np.float64)
        assert np.abs(codes).max() == 40
        assert np.array_equal(np.sign(after.weight), np.sign(before.weight))
        real = [c.weight * c.weight_scale[:, None, None, None].astype(np.float64) for c in (before, after)]
        off = np.abs(real[0] - real[1]) / np.abs(after.weight_scale[:, None, None, None])
        # Half a step, or up to a whole one for a kept weight that would else be zero.
        assert (off <= np.where(np.abs(codes) == 1, 1, 0.5) + 1e-4).all()
    assert all(
        a is b or np.array_equal(a.weight, b.weight)
        for a, b in zip(exported.convolutions, narrow.narrow(exported).convolutions, strict=True)
    )


def test_macs_are_those_of_the_rewritten_network(exported) -> None:
    """10.01 GMAC as written, 7.93 after the rewrites; each layer at as many pixels as the engine computes."""
    full = resized(exported, data.FULL_SIZE)
    assert round(full.macs() / 1e9, 2) == 10.01
    fast = optimize(full)
    assert {c.name: math.prod(fast.shape(c.name)[1:]) for c in fast.convolutions} == layer_pixels()
    assert round(fast.macs() / 1e9, 2) == 7.93


def test_resumed_training_gives_the_same_weights(frames, tmp_path) -> None:
    for until in (None, 1, 3):
        if until is not None:
            first = training.Trainer(
                random_model(), stage(), frames, tmp_path / str(until), log=lambda _: None
            )
            first.run(until)
        # A fresh model, as in a new process: everything must come from the checkpoint.
        trainer = training.Trainer(random_model(), stage(), frames, tmp_path / str(until), log=lambda _: None)
        assert trainer.epoch == (until or 0)
        average = trainer.run()
        states = [{k: v.clone() for k, v in m.state_dict().items()} for m in (trainer.model, average)]
        if until is None:
            expected = states
        for before, after in zip(expected, states, strict=True):
            different = [key for key in before if not torch.equal(before[key], after[key])]
            assert not different
    moved = random_model().state_dict()
    assert all(not torch.equal(moved[k], expected[0][k]) for k in moved if k.endswith(".weight"))


def test_class_shares_give_the_loss_of_all_pixels(frames) -> None:
    _, label = data.full_frame(frames[1], SIZE)
    weights = torch.from_numpy(data.class_weights(frames))
    logits = torch.randn(1, data.CLASSES, SIZE[0] // 8, SIZE[1] // 8, generator=torch.manual_seed(0))
    shares = torch.from_numpy(data.histograms(label))[None]
    enlarged = torch.nn.functional.interpolate(logits, scale_factor=8, mode="nearest")
    wanted = torch.nn.functional.cross_entropy(
        enlarged, torch.from_numpy(label.astype(np.int64))[None], weights
    )
    torch.testing.assert_close(training.cross_entropy(logits, shares, weights), wanted)
    assert weights[data.UNLABELLED] == 0
    assert weights[: data.UNLABELLED].max() > weights[: data.UNLABELLED].min() > 0


def test_jaccard_loss_is_one_minus_the_mean_iou_of_hard_predictions(frames) -> None:
    _, label = data.full_frame(frames[2], SIZE)
    shares = torch.from_numpy(data.histograms(label))[None]
    weights = torch.from_numpy(data.class_weights(frames))
    prediction = torch.randint(
        0, data.CLASSES, (1, SIZE[0] // 8, SIZE[1] // 8), generator=torch.manual_seed(1)
    )
    prediction = torch.where(torch.rand(prediction.shape) < 0.5, prediction, shares.argmax(1))
    logits = 100.0 * torch.nn.functional.one_hot(prediction, data.CLASSES).permute(0, 3, 1, 2)
    # With whole blocks of one class, soft and hard intersections over unions are the same.
    pure = torch.nn.functional.one_hot(shares.argmax(1), data.CLASSES).permute(0, 3, 1, 2).float()
    enlarged, truth = (t[0].numpy().repeat(8, 0).repeat(8, 1) for t in (prediction, pure.argmax(1)))
    ious = []
    for c in np.flatnonzero(np.bincount(truth.ravel(), minlength=data.CLASSES)):
        if c != data.UNLABELLED:
            labelled = truth != data.UNLABELLED
            hit, given = (truth == c), (enlarged == c) & labelled
            ious.append((hit & given).sum() / (hit | given).sum())
    loss = training.soft_jaccard(logits, pure, weights)
    assert float(loss) == pytest.approx(1 - np.mean(ious), abs=1e-5)
    assert float(training.soft_jaccard(100 * pure, pure, weights)) == pytest.approx(0, abs=1e-6)


def test_imitating_the_teacher_is_least_where_it_is_equalled() -> None:
    teacher = torch.randn(1, data.CLASSES, 4, 4, generator=torch.manual_seed(2))
    expected = torch.softmax(teacher, 1)
    logits = teacher.clone().requires_grad_()
    training.imitation(logits, expected).backward()
    assert logits.grad.abs().max() < 1e-6
    other = torch.zeros_like(teacher).requires_grad_()
    training.imitation(other, expected).backward()
    assert other.grad.abs().max() > 1e-3


def test_a_teacher_and_its_weight_go_together(frames, tmp_path) -> None:
    with pytest.raises(ValueError, match="go together"):
        training.Trainer(random_model(), stage(distillation=1.0), frames, tmp_path)

    def uniform(images: np.ndarray) -> np.ndarray:
        asked.append(images.shape)
        return np.full((len(images), data.CLASSES, SIZE[0] // 8, SIZE[1] // 8), 1 / data.CLASSES, np.float32)

    asked: list[tuple[int, ...]] = []
    with pytest.raises(ValueError, match="go together"):
        training.Trainer(random_model(), stage(), frames, tmp_path, teacher=uniform)
    options = {"frames": frames, "teacher": uniform, "log": lambda _: None}
    training.Trainer(random_model(), stage(distillation=1.0), out=tmp_path, **options).run(1)
    assert asked
    assert set(asked) == {(stage().batch, *SIZE, 3)}


def test_a_teacher_sees_each_picture_and_its_mirror_image(finished, frames) -> None:
    """Probabilities of a file, at the resolution of the logits, that do not depend on the side."""
    images = np.stack([data.full_frame(frame, SIZE)[0] for frame in frames[:2]])
    taught = teacher.Teacher([finished], SIZE)(images)
    assert taught.shape == (2, data.CLASSES, SIZE[0] // 8, SIZE[1] // 8)
    assert taught.dtype == np.float32
    np.testing.assert_allclose(taught.sum(1), 1, atol=1e-5)
    mirrored = teacher.Teacher([finished], SIZE)(images[:, :, ::-1])
    np.testing.assert_array_equal(mirrored[..., ::-1], taught)


def test_a_finished_file_trains_on(finished, frames, tmp_path) -> None:
    """The restored network computes what the file says, has its zeros, and its batch norms fit what they see."""
    graph = formats.load(finished)
    model = random_model()
    restore.fold_in(model, graph)
    for op, (_, layer) in zip(graph.convolutions, model.named_layers(), strict=True):
        weight, bias = layer.folded()
        wanted = op.weight * op.weight_scale[:, None, None, None]
        np.testing.assert_allclose(weight.detach(), wanted, rtol=1e-4, atol=1e-7)
        np.testing.assert_allclose(bias.detach(), op.bias, rtol=1e-5, atol=1e-6)
        assert np.array_equal(layer.mask, op.weight != 0)
    x = torch.cat(list(calibration.images(frames[:2], SIZE)))
    model.eval()
    with torch.no_grad():
        before = model(x)
        restore.measure_batch_norm(model, frames)
        torch.testing.assert_close(model(x), before, rtol=1e-3, atol=1e-3)
    first = model.layer("conv1_sub1")
    assert first.var.min() > 0
    assert not torch.equal(first.mean, torch.zeros_like(first.mean))
    training.Trainer(model, stage(), frames, tmp_path, log=lambda _: None).run(1)


def test_only_icnet_can_be_restored() -> None:
    net = Net((16, 48))
    other = net.classify(net.codes(net.relu(net.convolution(net.image, 8, 3, stride=2))))
    with pytest.raises(ValueError, match="expected the convolutions of ICNet"):
        restore.fold_in(random_model(), other)


def test_recalibrated_batch_norm_has_the_statistics_of_the_frames(frames) -> None:
    model = random_model()
    calibration.recalibrate_batch_norm(model, frames[:4], SIZE, batch=4)
    x = torch.cat(list(calibration.images(frames[:4], SIZE)))
    with torch.no_grad():
        first = torch.nn.functional.conv2d(x, model.layer("conv1_sub1").weight, None, 2, 1)
    torch.testing.assert_close(model.layer("conv1_sub1").mean, first.mean((0, 2, 3)), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(model.layer("conv1_sub1").var, first.var((0, 2, 3)), rtol=1e-4, atol=1e-5)
    assert not model.training


def test_augmentation_keeps_labels_on_their_pixels(frames) -> None:
    augmentation = data.Augmentation(SIZE, (0.1, 0.6), 0, 0, 0)
    for seed in range(20):
        image, label = augmentation(frames[seed % 8], np.random.default_rng(seed))
        assert image.shape == (*SIZE, 3)
        assert label.shape == SIZE
        nearest = np.abs(image[:, :, None].astype(int) - COLOURS).sum(3).argmin(2)
        inside = label != data.UNLABELLED
        # Edges blend and noise misleads; most pixels still show the colour of their class.
        assert (nearest == label)[inside].mean() > 0.7


def test_ranges_come_from_the_least_squared_error() -> None:
    counts = np.zeros(4096)
    counts[:400] = 1000
    counts[4000] = 1e-3  # a lone value ten times as far out is not worth a coarser step for all others
    assert 0.08 < calibration.best_upper(counts, 1.0) < 0.25
    counts[3000:4000] = 1000
    assert calibration.best_upper(counts, 1.0) > 0.9


def test_uncalibrated_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="must be calibrated"):
        export.export(random_model(), tmp_path / "x.npz")
    assert not list(tmp_path.iterdir())


def test_masks_follow_the_schedule() -> None:
    model = random_model()
    for share in (0.0, 0.3, 0.6):
        pruning.apply_masks(model, pruning.unstructured_masks(model, share))
        assert pruning.sparsity(model)[0] == pytest.approx(share, abs=1e-6)
        pruning.apply_masks(model, pruning.block_masks(model, share))
        assert share <= pruning.sparsity(model)[1] < share + 1e-3
    with pytest.raises(ValueError, match="cannot skip"):
        pruning.block_masks(model, 0.95)
    assert [round(pruning.ramp(t, 0.2, 0.6), 3) for t in (0, 0.5, 1, 2)] == [0.2, 0.55, 0.6, 0.6]


def test_blocks_that_the_loss_does_not_need_go_first(frames) -> None:
    """Gradients choose: blocks behind a dead channel go, however large; the cheapest loss per saving next."""
    model = random_model()
    weight = model.layer("conv4_2/3x3").weight
    with torch.no_grad():
        # Nobody reads the first 64 output channels of the 3x3: their weights are worth nothing.
        weight[:64] *= 100
        model.layer("conv4_2/increase").weight[:, :64] = 0
    sensitivity = pruning.Sensitivity()
    images, shares = next(data.batches(frames, data.Augmentation(SIZE, (0.25, 0.5)), 4, 1, 0))
    model.train()
    weights = torch.from_numpy(data.class_weights(frames))
    training.total_loss(model(normalize(images)), torch.from_numpy(shares), weights).backward()
    sensitivity.update(model)
    assert model.layer("conv4_2/3x3").weight.grad[:64].abs().max() == 0
    masks = sensitivity.masks(model, 0.2)
    assert not masks["conv4_2/3x3"][:64].any()
    assert masks["conv4_2/3x3"][64:].float().mean() > 0.5
    pruning.apply_masks(model, masks)
    assert 0.2 <= pruning.sparsity(model)[1] < 0.201
    # What went does not come back, whatever it is worth.
    sensitivity.squares = {name: torch.rand_like(x) for name, x in sensitivity.squares.items()}
    later = sensitivity.masks(model, 0.3)
    assert all(not (later[name] & ~masks[name]).any() for name in masks)
    pruning.apply_masks(model, later)
    assert 0.3 <= pruning.sparsity(model)[1] < 0.301
    almost = sensitivity.masks(model, 0.999)
    assert all(mask.any() for mask in almost.values())


def test_training_can_choose_blocks_by_the_loss(frames, tmp_path) -> None:
    """And a stopped run goes on with what it knew."""
    changes = {"by_loss": True, "sparsity": 0.5}
    options = {"frames": frames, "log": lambda _: None}
    whole = training.Trainer(random_model(), stage("block4x4", **changes), out=tmp_path / "a", **options)
    whole.run()
    assert 0.5 <= pruning.sparsity(whole.model)[1] < 0.501
    first = training.Trainer(random_model(), stage("block4x4", **changes), out=tmp_path / "b", **options)
    first.run(1)
    second = training.Trainer(random_model(), stage("block4x4", **changes), out=tmp_path / "b", **options)
    assert second.sensitivity.squares.keys() == {name for name, _ in second.model.named_layers()}
    second.run()
    for (_, a), (_, b) in zip(whole.model.named_layers(), second.model.named_layers(), strict=True):
        assert torch.equal(a.mask, b.mask)
    with pytest.raises(ValueError, match="by_loss chooses blocks, but the pattern is unstructured"):
        training.Trainer(random_model(), stage(by_loss=True), out=tmp_path / "c", **options)


def test_commands_run_from_start_to_file(frames, tmp_path: Path) -> None:
    """prune and qat as the README calls them, one epoch each."""
    for folder in ("train", "trainannot"):
        (tmp_path / folder).mkdir()
    for frame in frames:
        frame.image.save(tmp_path / "train" / frame.name)
        frame.label.save(tmp_path / "trainannot" / frame.name)
    training.save_state(random_model(), tmp_path / "start.pt")
    common = ["--data", str(tmp_path), "--out", str(tmp_path / "run"), "--threads", "2"]
    start = str(tmp_path / "start.pt")
    epochs = ["--crop-epochs", "1", "--full-epochs", "1"]
    prune.main([*common, "--start", start, "--pattern", "unstructured", *epochs])
    start = str(tmp_path / "run" / "pruned.pt")
    qat.main([*common, "--start", start, "--epochs", "1", "--calibration-frames", "1"])
    graph = formats.load(tmp_path / "run" / "icnet.npz")
    assert graph.input.shape == (3, *data.FULL_SIZE)
    zeros = sum(int((c.weight == 0).sum()) for c in graph.convolutions)
    assert zeros == round(0.6 * sum(c.weight.size for c in graph.convolutions))
