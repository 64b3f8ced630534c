"""Stored forms: their sizes are those of the arrays in the file and in the records of the plan."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from sparse_icnet.network.rewrite import optimize
from sparse_icnet.operators.convolution.plan import ConvolutionStep
from sparse_icnet.operators.record import tables
from sparse_icnet.operators.winograd.plan import WinogradStep
from sparse_icnet.plan import LEAST_TIME
from sparse_icnet.plan.layout import lay_out
from sparse_icnet.plan.select import select
from sparse_icnet.sparse.block_csr import block_density
from sparse_icnet.study import forms as study_forms
from sparse_icnet.study.forms import DirectForm, WinogradForm, block_forms, forms, forms_of
from sparse_icnet.target import TARGET


@pytest.fixture(scope="module")
def found(tiny_net):
    return {form.name: form for form in forms(tiny_net.graph, tiny_net.plan, gather=False)}


def test_sizes_in_the_file(found, tiny_file, tiny_graph):
    with np.load(tiny_file) as file:
        for number, op in enumerate(tiny_graph.ops):
            if op.name in found:
                parts = [file[f"layer{number:04d}.{part}"] for part in ("indptr", "indices", "data")]
                assert found[op.name].csr_bytes == sum(part.nbytes for part in parts)
                assert found[op.name].nonzeros == parts[-1].size == np.count_nonzero(op.weight)
                assert found[op.name].weights == op.weight.size


def test_packed_sizes_are_those_of_the_records(found, tiny_graph):
    program = select(optimize(tiny_graph), LEAST_TIME, 1)
    memory = lay_out(program, False).memory
    kinds = set()
    for step in program.body:
        if isinstance(step, ConvolutionStep):
            read, form = tables(step.params(memory)), found[step.name].packed
            assert isinstance(form, DirectForm)
            assert form.weights_bytes == read["weights"].nbytes
            assert form.offsets_bytes == read["offsets"].nbytes
            assert form.indptr_bytes == read["indptr"].nbytes
            assert form.bytes == sum(read[name].nbytes for name in ("weights", "offsets", "indptr"))
            assert form.singles + form.couples == len(read["weights"])
            assert (form.couples > 0) <= TARGET.couples
        elif isinstance(step, WinogradStep):
            form = found[step.name].packed
            assert isinstance(form, WinogradForm)
            assert form.bytes == tables(step.params(memory))["weights"].nbytes == 2 * form.elements
            assert 0 < form.nonzero <= form.elements
        kinds.add(type(step))
    assert ConvolutionStep in kinds


def test_blocks(found, tiny_graph):
    for op in tiny_graph.convolutions:
        for form in found[op.name].blocks:
            assert form.stored / form.blocks == pytest.approx(block_density(op.weight, form.rows))
            assert form.empty == form.blocks - form.stored
            assert form.bytes >= 4 * form.rows * form.stored
        assert found[op.name].of_rows(4).rows == 4


def test_gathering_shows_in_the_blocks(tiny_net, monkeypatch):
    """Channels in stripes: every second input channel is empty, so gathered blocks are half of them."""
    op = tiny_net.graph["conv4_2/3x3"]
    weight = np.ones_like(op.weight)
    weight[:, ::2] = 0
    striped = replace(op, weight=weight)
    gathered = replace(op, weight=np.concatenate([weight[:, ::2], weight[:, 1::2]], 1))
    form = forms_of(striped, gathered=gathered)
    assert form.packed is None
    assert form.of_rows(4).empty == 0
    assert form.gathered == block_forms(gathered)
    assert next(one for one in form.gathered if one.rows == 4).empty == form.of_rows(4).blocks // 2
    monkeypatch.setattr(study_forms, "gather_zeros", lambda graph: graph)  # which takes seconds
    for form in forms(tiny_net.graph, tiny_net.plan):
        assert form.gathered == form.blocks


def test_forms_become_json(found):
    figures = json.loads(json.dumps([form.to_dict() for form in found.values()]))
    assert figures[0]["name"] == "conv1_sub1"
    assert 0 < figures[0]["zeros"] < 1
