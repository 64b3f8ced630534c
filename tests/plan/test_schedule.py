"""The order of the steps, the lives of the tensors and where they lie."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from sparse_icnet.operators.storage import Block, Grid, RealMap, Storage
from sparse_icnet.plan.schedule import depth_first, lifetimes, needs, offsets

GRID = Grid.for_size(4, 16)


@dataclass(frozen=True, eq=False)
class Fake:
    """An operator as the schedule sees it."""

    name: str
    writes: tuple[Storage, ...]
    reads: tuple[Storage, ...]


def make(name: str, planes: int, *reads: Storage) -> Fake:
    return Fake(name, (RealMap(name, 4, (planes, 1), GRID),), reads)


def output(step: Fake) -> Storage:
    (storage,) = step.writes
    return storage


def names(steps: list[Fake]) -> list[str]:
    return [step.name for step in steps]


def test_a_branch_runs_to_its_end_before_the_next_the_largest_first():
    image = make("image", 8)
    deep = make("deep", 2, output(image))
    deeper = make("deeper", 1, output(deep))
    high = make("high", 4, output(image))
    higher = make("higher", 2, output(high))
    end = make("end", 1, output(deeper), output(higher))
    steps = [image, deep, deeper, high, higher, end]
    assert names(depth_first(steps)) == ["image", "high", "higher", "deep", "deeper", "end"]
    assert needs(steps) == [set(), {0}, {1}, {0}, {3}, {2, 4}]


@given(st.data())
def test_depth_first_is_what_it_says(data):
    """Against the definition: of all steps that may run, the one that reads what was written last; then the largest."""
    steps: list[Fake] = []
    for i in range(data.draw(st.integers(1, 12))):
        sources = data.draw(st.lists(st.sampled_from(steps), max_size=3)) if steps else []
        steps.append(make(str(i), data.draw(st.integers(1, 3)), *map(output, sources)))
    before = needs(steps)
    order: list[int] = []
    while len(order) < len(steps):
        ready = [i for i in range(len(steps)) if i not in order and before[i] <= set(order)]
        latest = {i: max((order.index(j) for j in before[i]), default=-1) for i in ready}
        order.append(max(ready, key=lambda i: (latest[i], output(steps[i]).phases[0], -i)))
    assert depth_first(steps) == [steps[i] for i in order]


def test_whoever_reads_a_copy_waits_for_it():
    image = make("image", 8)
    copies = Fake("copies", image.writes, image.writes)
    reader = make("reader", 64, output(image))
    assert needs([image, copies, reader]) == [set(), {0}, {0, 1}]
    assert names(depth_first([image, copies, reader])) == ["image", "copies", "reader"]


def test_a_block_orders_its_reader():
    image = make("image", 8)
    private = Fake("private", (Block("means", 99),), (output(image),))
    reader = make("reader", 64, output(private))
    assert names(depth_first([image, private, reader])) == ["image", "private", "reader"]


def test_a_tensor_lives_from_its_writer_to_its_last_reader():
    a = make("a", 1)
    b = make("b", 1, output(a))
    c = make("c", 1, output(b), output(a))
    d = make("d", 1, output(c))
    alive = lifetimes([a, b, c, d])
    assert [alive[output(step)] for step in (a, b, c, d)] == [(0, 2), (1, 2), (2, 3), (3, 3)]


blocks = st.lists(
    st.tuples(st.integers(1, 50), st.integers(0, 12), st.integers(0, 5)).map(
        lambda block: (block[0], (block[1], block[1] + block[2]))
    ),
    max_size=14,
)


@given(blocks)
def test_blocks_alive_at_a_time_never_overlap(blocks):
    sizes, alive = [size for size, _ in blocks], [life for _, life in blocks]
    places, total = offsets(sizes, alive)
    for i, (begin, end) in enumerate(alive):
        assert 0 <= places[i] <= places[i] + sizes[i] <= total
        for j in range(i):
            if alive[j][0] <= end and begin <= alive[j][1]:
                assert places[i] + sizes[i] <= places[j] or places[j] + sizes[j] <= places[i]
    for time in range(18):
        assert sum(size for size, (a, b) in blocks if a <= time <= b) <= total
    if all(life == alive[0] for life in alive):
        assert total == sum(sizes)


def test_blocks_that_follow_each_other_share_memory():
    assert offsets([7, 5, 9], [(0, 1), (2, 3), (4, 5)]) == ([0, 0, 0], 9)
