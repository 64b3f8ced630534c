"""The stages that draw views on the device and stop by the clock, on synthetic frames: views, losses, masks, states."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import sparse_icnet
from sparse_icnet.formats import native

torch = pytest.importorskip("torch", reason="the recipe needs the extra 'train'")

from weights.recipe import (  # noqa: E402
    clock,
    compact,
    data,
    describe,
    encoder,
    imitate,
    losses,
    pruning,
    teach,
    temper,
    training,
    views,
)
from weights.recipe.model import ICNet, normalize  # noqa: E402

COLOURS = np.random.default_rng(7).integers(0, 256, (data.CLASSES, 3))
SMALL = views.Views((192, 192), (1.0, 4.0), rotation=0.0, paste=0.0, plain=1.0)


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> None:
    torch.set_num_threads(1)


def synthetic(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """RGB (96, 120, 3) and labels (96, 120): boxes whose colour tells the class."""
    random = np.random.default_rng(seed)
    label = random.integers(0, data.CLASSES, (4, 5)).repeat(24, 0).repeat(24, 1).astype(np.uint8)
    return COLOURS[label].astype(np.uint8), label


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("camvid")
    for name in ("train", "trainannot"):
        (place / name).mkdir()
    for seed in range(4):
        image, label = synthetic(seed)
        Image.fromarray(image).save(place / "train" / f"{seed}.png")
        Image.fromarray(label).save(place / "trainannot" / f"{seed}.png")
    return place


@pytest.fixture(scope="module")
def pool(folder: Path) -> views.Pool:
    return views.load_pool(folder, "train")


def plan(steps: int = 4, **changes) -> clock.Plan:
    return clock.Plan("test", 60.0, 2, 1e-3, steps=steps, **changes)


def random_of(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def draw(pool: views.Pool, how: views.Views, seed: int) -> views.Batch:
    torch.manual_seed(seed)
    return how.draw(pool, torch.arange(4), random_of(seed))


def test_frames_and_labels_are_read_as_they_are(pool, folder) -> None:
    image, label = synthetic(2)
    np.testing.assert_array_equal(pool.images[2].permute(1, 2, 0), image)
    np.testing.assert_array_equal(pool.labels[2], label)
    frames = data.load_frames(folder, "train")
    np.testing.assert_allclose(pool.class_weights(), data.class_weights(frames), rtol=1e-6)
    assert pool.only([3, 1]).names == ("3", "1")
    with pytest.raises(FileNotFoundError, match="expected PNG or JPEG frames"):
        views.load_pool(folder, "test")


def test_views_keep_labels_on_their_pixels(pool) -> None:
    """Also where they turn, and where things are pasted."""
    for how in (SMALL, replace(SMALL, rotation=0.2), replace(SMALL, paste=1.0)):
        batch = draw(pool, how, 3)
        assert batch.images.shape == (4, 3, 192, 192)
        assert batch.labels.shape == batch.weight.shape == (4, 96, 96)
        assert torch.equal(batch.images, batch.images.round())
        seen = batch.images[:, :, ::2, ::2].permute(0, 2, 3, 1).numpy()
        nearest = np.abs(seen[:, :, :, None] - COLOURS).sum(4).argmin(3)
        inside = batch.weight.numpy() == 1
        assert (nearest == batch.labels.numpy())[inside].mean() > 0.9
        assert inside.mean() > 0.3


def test_pasting_takes_rare_classes_only(pool) -> None:
    plain, pasted = (draw(pool, replace(SMALL, paste=share), 5) for share in (0.0, 1.0))
    changed = plain.labels != pasted.labels
    assert changed.any()
    assert set(pasted.labels[changed].unique().tolist()) <= set(views.RARE)


def test_taught_probabilities_go_with_the_labels(pool) -> None:
    hot = torch.nn.functional.one_hot(pool.labels.long(), data.CLASSES).movedim(3, 1).half()
    batch = draw(pool.with_taught(hot), replace(SMALL, paste=1.0, rotation=0.1), 6)
    inside = batch.weight == 1
    assert (batch.taught.argmax(1) == batch.labels)[inside].float().mean() > 0.95


def test_colours_change_and_the_same_seed_gives_the_same_view(pool) -> None:
    how = replace(SMALL, plain=0.0)
    first, again, other = (draw(pool, how, seed) for seed in (7, 7, 8))
    assert torch.equal(first.images, again.images)
    assert not torch.equal(first.images, other.images)
    assert first.images.min() >= 0
    assert first.images.max() <= 255
    assert (first.images - draw(pool, SMALL, 7).images).abs().mean() > 5
    assert how.gentle().plain > how.plain


def test_borders_weigh_less_but_not_those_of_thin_things() -> None:
    labels = torch.full((1, 5, 6), 1)
    labels[:, :, 3:] = 3
    labels[:, 0] = data.UNLABELLED
    labels[:, 4, 0] = 2
    weight = views.border_weights(labels)[0]
    assert weight[0].max() == 0
    assert weight[2].tolist() == [1, 1, 0.5, 0.5, 1, 1]
    assert weight[4, 0] == 1
    assert weight[4, 1] == 0.5


def test_whole_frames_are_those_that_mean_iou_is_measured_on(pool, folder) -> None:
    images, labels = views.whole_frames(pool, torch.tensor([1]), (192, 240))
    image, label = data.full_frame(data.load_frames(folder, "train")[1], (192, 240))
    np.testing.assert_array_equal(labels[0], label)
    assert np.abs(images[0].permute(1, 2, 0).numpy() - image).max() <= 1
    wanted = normalize(image[None])
    found = views.normalized(torch.from_numpy(image.copy()).permute(2, 0, 1)[None].float())
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)


def batch_of(logits: torch.Tensor, taught: bool = False) -> views.Batch:
    random = random_of(1)
    labels = torch.randint(0, data.CLASSES, (2, 16, 16), generator=random)
    weight = (labels != data.UNLABELLED).float()
    probabilities = torch.softmax(torch.randn(2, data.CLASSES, 16, 16, generator=random), 1)
    return views.Batch(logits, labels, weight, probabilities if taught else None)


def test_smooth_loss_is_that_of_enlarged_logits() -> None:
    logits = torch.randn(2, data.CLASSES, 4, 4, generator=random_of(2))
    weights = torch.linspace(0.5, 2.0, data.CLASSES)
    weights[data.UNLABELLED] = 0
    batch = batch_of(logits, taught=True)
    enlarged = torch.nn.functional.interpolate(logits, scale_factor=4, mode="bilinear")
    wanted = torch.nn.functional.cross_entropy(enlarged, batch.labels, weights)
    torch.testing.assert_close(losses.smooth_loss(logits, batch, weights, 0.0, 0.0), wanted)
    imitation = torch.nn.functional.cross_entropy(enlarged, batch.taught)
    torch.testing.assert_close(losses.smooth_loss(logits, batch, weights, 0.0, 2.0), wanted + 2 * imitation)
    with pytest.raises(ValueError, match="needs probabilities of a teacher"):
        losses.smooth_loss(logits, batch_of(logits), weights, 0.0, 1.0)


def test_jaccard_of_hard_predictions_is_one_minus_mean_iou() -> None:
    batch = batch_of(torch.zeros(1))
    said = torch.where(torch.rand(batch.labels.shape, generator=random_of(3)) < 0.6, batch.labels, 4)
    hot = torch.nn.functional.one_hot(said, data.CLASSES).movedim(3, 1).float()
    known = batch.labels != data.UNLABELLED
    ious = []
    for c in range(data.UNLABELLED):
        hit, given = batch.labels == c, (said == c) & known
        ious.append(float((hit & given).sum() / (hit | given).sum()))
    scored = torch.arange(data.CLASSES) != data.UNLABELLED
    assert float(losses.soft_jaccard(hot, batch, scored)) == pytest.approx(1 - np.mean(ious), abs=1e-5)


def test_a_plan_by_steps_can_be_repeated_and_masks_stand_exactly(pool) -> None:
    torch.manual_seed(5)
    start = ICNet().state_dict()
    results = []
    for _ in range(2):
        model = ICNet()
        model.load_state_dict(start)
        rule = imitate.Sparsity("unstructured", 0.6, 0.2, until=0.5)
        result = imitate.train_student(model, pool, None, plan(), SMALL, sparsity=rule, log=lambda _: None)
        results.append(result.state_dict())
        zeros = sum(int((layer.weight == 0).sum()) for _, layer in result.named_layers())
        assert zeros == round(0.6 * sum(layer.weight.numel() for _, layer in result.named_layers()))
    assert all(torch.equal(results[0][key], results[1][key]) for key in start)
    assert any(not torch.equal(results[0][key], start[key]) for key in start if key.endswith(".gamma"))


@pytest.fixture(scope="module")
def teacher(pool) -> encoder.Large:
    torch.manual_seed(0)
    state = encoder.Encoder().state_dict()
    model = teach.train_teacher(pool, state, plan(2), SMALL, log=lambda _: None)
    assert not torch.equal(model.encoder.stem.conv.weight, state["stem.conv.weight"])
    return model


def test_a_teacher_teaches_blocks(pool, teacher) -> None:
    taught = teach.averaged(teacher, pool, scales=(0.25,), batch=2)
    assert taught.shape == (4, data.CLASSES, 96, 120)
    torch.testing.assert_close(taught.float().sum(1), torch.ones(4, 96, 120), rtol=0, atol=5e-3)
    rule = imitate.Sparsity("block4x4", 0.5, until=0.5)
    torch.manual_seed(5)
    model = imitate.train_student(
        ICNet(), pool.with_taught(taught), teacher, plan(), SMALL, sparsity=rule, log=lambda _: None
    )
    assert 0.5 <= pruning.sparsity(model)[1] < 0.501


def test_the_fused_teacher_says_the_same(teacher) -> None:
    images = torch.randint(0, 256, (1, 3, 64, 96), generator=random_of(4)).float()
    with torch.no_grad():
        torch.testing.assert_close(encoder.fused(teacher)(images), teacher(images), rtol=1e-3, atol=1e-4)
    assert teacher(images).shape == (1, data.CLASSES, 16, 24)


def test_only_the_encoder_of_lite2_is_read(tmp_path) -> None:
    torch.save({"_conv_stem.weight": torch.zeros(3)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match="expected the weights of EfficientNet-lite2"):
        encoder.read_encoder(tmp_path / "other.pth")


def test_what_is_taught_beyond_the_frame_is_what_is_seen(teacher) -> None:
    batch = batch_of(torch.zeros(2, 3, 64, 64))
    batch = replace(
        batch, images=torch.zeros(2, 3, 64, 64), labels=batch.labels, taught=torch.zeros(2, 12, 16, 16)
    )
    seen = imitate.taught(teacher.eval(), replace(batch, taught=None), 1.0)
    torch.testing.assert_close(imitate.taught(teacher, batch, 0.3), seen)
    known = torch.softmax(torch.randn(2, 12, 16, 16, generator=random_of(5)), 1)
    mixed = imitate.taught(teacher, replace(batch, taught=known), 0.25)
    torch.testing.assert_close(mixed, 0.25 * seen + 0.75 * known)
    assert imitate.taught(None, replace(batch, taught=known), 0.5) is known


def test_rates_follow_the_share_of_the_time() -> None:
    some = clock.Plan("test", 10.0, 2, 1.0, final_rate=0.1, warmup=0.1)
    assert clock.rate_at(some, 0.05) == pytest.approx(0.5)
    assert clock.rate_at(some, 0.1) == pytest.approx(1.0)
    assert clock.rate_at(some, 0.55) == pytest.approx(0.55)
    assert clock.rate_at(some, 1.0) == pytest.approx(0.1)


def test_a_run_stops_by_the_clock_and_needs_time(pool) -> None:
    some = clock.Plan("test", 1e-6, 2, 1e-3)
    model = torch.nn.Conv2d(3, 2, 1)
    arguments = ([clock.Group(model)], some, pool, SMALL, lambda m, b: m(b.images).mean(), lambda x: x)
    clock.train(model, *arguments, log=lambda _: None)
    with pytest.raises(ValueError, match="expected time to train"):
        clock.train(model, arguments[0], replace(some, seconds=0.0), *arguments[2:], log=lambda _: None)


def test_batches_show_every_frame_once_before_any_again() -> None:
    source = clock.shuffled(5, 2, random_of(0), torch.device("cpu"))
    seen = torch.cat([next(source) for _ in range(5)])
    assert sorted(seen[:5].tolist()) == sorted(seen[5:].tolist()) == list(range(5))


def test_a_compact_state_keeps_masks_and_weights(tmp_path) -> None:
    torch.manual_seed(1)
    model = ICNet()
    pruning.apply_masks(model, pruning.unstructured_masks(model, 0.6))
    pruning.clear_pruned(model)
    with torch.no_grad():  # a kept weight that float16 cannot hold
        layer = model.layer("conv4_1/3x3")
        layer.weight[layer.mask.nonzero()[0].tolist()[0]] *= 1e-12
    compact.save_compact(model, tmp_path / "state.pt")
    again = training.load_model(tmp_path / "state.pt")
    for (name, before), (_, after) in zip(model.named_layers(), again.named_layers(), strict=True):
        assert torch.equal(before.mask, after.mask), name
        torch.testing.assert_close(before.weight, after.weight, rtol=1e-3, atol=1e-7)
        assert torch.equal(after.weight != 0, after.mask)
    assert (tmp_path / "state.pt").stat().st_size < 8e6
    with pytest.raises(ValueError, match="expected a compact state of ICNet, found the layer other"):
        compact.unpacked({"other.mask": torch.zeros(1, dtype=torch.uint8), "other.weight": torch.zeros(1)})
    whole = model.state_dict()
    assert compact.unpacked(whole) is whole


def test_the_temperature_of_the_labels_is_found() -> None:
    logits = 3 * torch.randn(20000, data.CLASSES, generator=random_of(2))
    labels = torch.multinomial(torch.softmax(logits / 1.7, 1), 1, generator=random_of(3))[:, 0]
    known = temper.Scores(logits, labels)
    found = temper.fit_temperature(known)
    assert found == pytest.approx(1.7, rel=0.05)
    assert temper.calibration_error(known, found) < 0.02 < temper.calibration_error(known)


def test_a_tempered_file_says_the_same_classes_less_surely(tmp_path) -> None:
    path = sparse_icnet.DEFAULT_WEIGHTS
    graph = native.load(path)
    native.save(temper.adjusted(graph, np.zeros(data.CLASSES), 2.0), tmp_path / "half.npz")
    image = np.random.default_rng(0).integers(0, 256, (192, 192, 3), dtype=np.uint8)
    first, second = (
        sparse_icnet.load(p, size=(192, 192), threads=1).session.scores_of_image(image, None)
        for p in (path, tmp_path / "half.npz")
    )
    np.testing.assert_allclose(second[0], first[0] / 2, rtol=1e-5, atol=1e-5)
    assert (first[1] == second[1]).mean() > 0.999
    shifted = temper.adjusted(graph, np.eye(data.CLASSES)[3] * 50, 1.0)
    native.save(shifted, tmp_path / "road.npz")
    net = sparse_icnet.load(tmp_path / "road.npz", size=(192, 192), threads=1)
    assert (net.session.class_map_of_image(image) == 3).all()


def test_class_weights_are_taken_back_by_their_logarithms() -> None:
    weights = np.array([0.5, 2.0, 0.0], np.float32)
    shift = temper.unweighing(weights, 0.5)
    np.testing.assert_allclose(shift, [math.log(2) / 2, -math.log(2) / 2, 0], rtol=1e-6)


def test_a_described_file_is_the_same_network(tmp_path) -> None:
    figures = {kind: {"mean_iou": 0.71239} for kind in ("smooth", "blocks")}
    (tmp_path / "eval.json").write_text(json.dumps(figures))
    source = str(sparse_icnet.DEFAULT_WEIGHTS)
    out = tmp_path / "described.npz"
    texts = ["--eval", str(tmp_path / "eval.json"), "--name", "a name", "--notes", "notes"]
    describe.main(["--model", source, *texts, "--out", str(out)])
    before, after = native.load(source), native.load(out)
    assert after.meta.name == "a name"
    assert after.meta.accuracy["mIoU, CamVid val, smooth"] == 0.7124
    for one, other in zip(before.convolutions, after.convolutions, strict=True):
        np.testing.assert_array_equal(one.weight, other.weight)
