"""The order of the steps, the lives of the tensors and where they lie."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sparse_icnet.kernels.fields import Kind
from sparse_icnet.runtime.layout import Buffer, Grid, View
from sparse_icnet.runtime.schedule import depth_first, lifetimes, needs, offsets
from sparse_icnet.runtime.steps import Step

GRID = Grid.for_size(4, 16)


def make(name: str, planes: int, *reads: Buffer | Step) -> Step:
    buffer = Buffer(name, 4, (planes, 1), None, GRID)
    return Step(name, Kind.CONVOLUTION, 1, output=View.of(buffer), reads=list(reads))


def output(step: Step) -> Buffer:
    return step.output.buffer


def names(steps: list[Step]) -> list[str]:
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
    steps: list[Step] = []
    for i in range(data.draw(st.integers(1, 12))):
        sources = data.draw(st.lists(st.sampled_from(steps), max_size=3)) if steps else []
        steps.append(make(str(i), data.draw(st.integers(1, 3)), *map(output, sources)))
    before = needs(steps)
    order: list[int] = []
    while len(order) < len(steps):
        ready = [i for i in range(len(steps)) if i not in order and before[i] <= set(order)]
        latest = {i: max((order.index(j) for j in before[i]), default=-1) for i in ready}
        order.append(max(ready, key=lambda i: (latest[i], output(steps[i]).planes, -i)))
    assert depth_first(steps) == [steps[i] for i in order]


def test_whoever_reads_a_copy_waits_for_it():
    image = make("image", 8)
    copies = Step("copies", Kind.SHIFT, 1, output=image.output, reads=[output(image)])
    reader = make("reader", 64, output(image))
    assert needs([image, copies, reader]) == [set(), {0}, {0, 1}]
    assert names(depth_first([image, copies, reader])) == ["image", "copies", "reader"]


def test_a_result_that_a_step_keeps_to_itself_orders_its_reader():
    image = make("image", 8)
    private = Step("private", Kind.AVERAGE_POOL, 1, reads=[output(image)])
    reader = make("reader", 64, private)
    assert names(depth_first([image, private, reader])) == ["image", "private", "reader"]


def test_a_tensor_lives_from_its_writer_to_its_last_reader():
    a = make("a", 1)
    b = make("b", 1, output(a))
    c = make("c", 1, output(b), output(a))
    d = make("d", 1, output(c))
    alive = lifetimes([a, b, c, d])
    assert [alive[id(output(step))] for step in (a, b, c, d)] == [(0, 2), (1, 2), (2, 3), (3, 3)]


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
