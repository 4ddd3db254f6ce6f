"""Collectives are read from a compiled program's text: their kind, bytes, group and loops."""

import pytest

from ssl_jax.planning import collectives
from ssl_jax.planning.collectives import Collective

# as XLA writes it for CPU (the loop states its length) and for TPU (it is counted, layouts with
# parentheses, an asynchronous start), reduced to what matters
TEXT = """\
HloModule jit_f, is_scheduled=true, num_partitions=8

%add (x: f32[], y: f32[]) -> f32[] {
  %x = f32[] parameter(0)
  %y = f32[] parameter(1)
  ROOT %sum = f32[] add(%x, %y)
}

%body (p: (s32[], f32[64,64])) -> (s32[], f32[64,64]) {
  %p = (s32[], f32[64,64]{1,0:T(8,128)S(1)}) parameter(0)
  %dot = f32[64,64]{1,0:T(8,128)S(1)} dot(%p, %p)
  %all-reduce.5 = f32[64,64]{1,0:T(8,128)S(1)} all-reduce(%dot), channel_id=1, \
replica_groups=mesh['axis_0'=8,'axis_1'=1] {'axis_0'}, to_apply=%add
  %start = f32[64,64]{1,0} fusion(%dot), kind=kCustom, calls=%part.1
  %both = f32[64,64]{1,0} fusion(%dot, %start), kind=kCustom, calls=%part.2
  ROOT %tuple = (s32[], f32[64,64]{1,0}) tuple(%p, %all-reduce.5)
}

%condition (p: (s32[], f32[64,64])) -> pred[] {
  %end = s32[]{:T(128)} constant(5)
  %at = s32[]{:T(128)} get-tuple-element(%p), index=0
  ROOT %lt = pred[]{:T(512)} compare(%at, %end), direction=LT
}

%part.1 (r: f32[8,64]) -> f32[64,64] {
  %r = f32[8,64]{1,0} parameter(0)
  ROOT %gather.1 = f32[64,64]{1,0} all-gather(%r), channel_id=12, \
replica_groups=mesh['axis_0'=1,'axis_1'=8] {'axis_1'}, frontend_attributes={chain_id="0"}
}

%part.2 (s: f32[8,64], t: f32[64,64]) -> f32[64,64] {
  %s = f32[8,64]{1,0} parameter(0)
  ROOT %gather.2 = f32[64,64]{1,0} all-gather(%s), channel_id=12, \
replica_groups=mesh['axis_0'=1,'axis_1'=8] {'axis_1'}, frontend_attributes={chain_id="0"}
}

%wrapped (q: bf16[32,64]) -> bf16[4,64] {
  %q = bf16[32,64]{1,0} parameter(0)
  ROOT %rs = bf16[4,64]{1,0} reduce-scatter(%q), replica_groups={{0,1,2,3,4,5,6,7}}, to_apply=%add
}

%all-reduce-scatter.1 (q: bf16[48,16]) -> bf16[16,16] {
  %q.1 = bf16[48,16]{1,0} parameter(0)
  %padded = bf16[64,16]{1,0:T(8,128)(2,1)} pad(%q.1, %zero), padding=0_16x0_0
  %all-reduce.9 = bf16[64,16]{1,0:T(8,128)(2,1)} all-reduce(%padded), channel_id=170, \
replica_groups={{0,1,2,3}}, to_apply=%add
  ROOT %piece = bf16[16,16]{1,0} dynamic-slice(%all-reduce.9, %at), dynamic_slice_sizes={16,16}
}

ENTRY %main (a: f32[32,64], b: bf16[32,64]) -> f32[] {
  %a = f32[32,64]{1,0} parameter(0)
  %b = bf16[32,64]{1,0:T(8,128)(2,1)} parameter(1)
  %gather = (f32[32,64]{1,0}, f32[64,64]{1,0}) all-gather-start(%a), \
replica_groups=[4,2]<=[2,4]T(1,0), dimensions={0}
  %gathered = f32[64,64]{1,0} all-gather-done(%gather)
  %alone = f32[64,64]{1,0} all-reduce(%gathered), replica_groups={{0},{1}}, to_apply=%add
  %scatter = ((bf16[32,64]{1,0}), bf16[4,64]{1,0}) async-start(%b), calls=%wrapped
  %scattered = bf16[4,64]{1,0} async-done(%scatter), calls=%wrapped
  %stated = (s32[], f32[64,64]{1,0}) while(%t), condition=%condition, body=%body, \
backend_config={"known_trip_count":{"n":"7"}}
  %counted = (s32[], f32[64,64]{1,0}) while(%t), condition=%condition, body=%body
  %moved = f32[32,64]{1,0} collective-permute(%a), source_target_pairs={{0,1},{1,0}}
  %kept = bf16[16,16]{1,0} fusion(%c), kind=kCustom, calls=%all-reduce-scatter.1
  %after-all = token[] after-all(), frontend_attributes={MegascaleRendezvousKeyName="a_0"}
  %send = (f32[32,64]{1,0}, u32[], token[]) send(%a, %after-all), channel_id=3, \
is_host_transfer=true, frontend_attributes={_xla_megascale_transfer_type="ALL_REDUCE"}
  %sent = token[] send-done(%send), is_host_transfer=true
}
"""


def test_kind_bytes_group_and_loops():
    assert collectives.parse(TEXT, 8) == [
        Collective("all-gather", 32 * 64 * 4, 2, 1),
        Collective("reduce-scatter", 32 * 64 * 2, 8, 1),
        Collective("all-reduce", 64 * 64 * 4, 8, 7),
        Collective("all-gather", 8 * 64 * 4, 8, 7),  # once, in two parts
        Collective("all-reduce", 64 * 64 * 4, 8, 5),
        Collective("collective-permute", 32 * 64 * 4, 2, 1),
        Collective("reduce-scatter", 64 * 16 * 2, 4, 1),
    ]


def test_what_goes_between_slices_is_a_kind_of_its_own():
    found = collectives.parse(TEXT, 32, 4)
    assert found[:-1] == collectives.parse(TEXT, 8)
    assert found[-1] == Collective("all-reduce", 32 * 64 * 4, 4, 1, between=True)
    total = collectives.totals(found)
    assert total["all-reduce between slices"]["sent"] == 8192 * 2 * 3 / 4
    assert total["all-reduce"]["count"] == 12


def test_bytes_sent_follow_the_ring_algorithms():
    assert Collective("all-reduce", 800, 8, 1).sent == 2 * 700
    assert Collective("all-gather", 100, 8, 3).sent == 3 * 700
    assert Collective("reduce-scatter", 800, 8, 1).sent == 700
    total = collectives.totals(collectives.parse(TEXT, 8))
    assert total["all-reduce"] == {"count": 12, "bytes": 12 * 16384, "sent": 12 * 16384 * 7 / 4}


def test_a_loop_of_unknown_length_is_an_error():
    text = TEXT.replace("constant(5)", "parameter(1)")
    with pytest.raises(ValueError, match="counted contains collectives but has no known length"):
        collectives.parse(text, 8)


def test_sizes_of_types():
    assert collectives.size_of("(bf16[2,3]{1,0:T(8,128)(2,1)}, pred[], f8e4m3fn[4], u32[])") == 21
