"""Traces as a TPU and a GPU write them: written by hand from the schema, recorded on neither.

The schema is that of XSpace (tsl/profiler/protobuf/xplane.proto; the names of planes, lines and
stats are those of xplane_schema.cc): an event refers to metadata, in which a TPU stores the text of
an instruction as its name, the short name as the display name, and the scope as the stat `tf_op`;
times are picoseconds after the nanosecond at which the line starts.
"""

BEGIN = 1_000_000_000  # ns

HOST = f"""
planes {{ name: "/host:CPU"
  lines {{ id: 1 name: "python" timestamp_ns: {BEGIN}
    events {{ metadata_id: 1 offset_ps: 0 duration_ps: 20000000 }}
    events {{ metadata_id: 2 offset_ps: 20000000 duration_ps: 5000000 }} }}
  event_metadata {{ key: 1 value {{ id: 1 name: "data wait" }} }}
  event_metadata {{ key: 2 value {{ id: 2 name: "train" }} }} }}
"""


def tpu(chip: int, late: int = 0) -> str:
    """Returns the plane of a chip that runs dot.1, a loop over tanh.2 and sqrt.5, of 10 us each.

    It also has a copy, the step, the scope and a sparse core, which are ignored.
    """
    return f"""
planes {{ id: {chip + 2} name: "/device:TPU:{chip}"
  lines {{ id: 1 name: "Steps" timestamp_ns: {BEGIN}
    events {{ metadata_id: 1 offset_ps: 30000000 duration_ps: 50000000 }} }}
  lines {{ id: 2 name: "XLA Modules" timestamp_ns: {BEGIN + 30_000}
    events {{ metadata_id: 2 offset_ps: {late}000000 duration_ps: 40000000 }} }}
  lines {{ id: 3 name: "XLA Ops" timestamp_ns: {BEGIN + 30_000}
    events {{ metadata_id: 3 offset_ps: {late}000000 duration_ps: 10000000
      stats {{ metadata_id: 4 int64_value: 1 }} }}
    events {{ metadata_id: 4 offset_ps: {late + 10}000000 duration_ps: 20000000 }}
    events {{ metadata_id: 5 offset_ps: {late + 10}000000 duration_ps: 10000000 }}
    events {{ metadata_id: 5 offset_ps: {late + 20}000000 duration_ps: 10000000 }}
    events {{ metadata_id: 6 offset_ps: {late + 30}000000 duration_ps: 10000000 }} }}
  lines {{ id: 4 name: "Async XLA Ops" timestamp_ns: {BEGIN + 30_000}
    events {{ metadata_id: 7 offset_ps: 0 duration_ps: 40000000 }} }}
  lines {{ id: 5 name: "Framework Name Scope" timestamp_ns: {BEGIN + 30_000}
    events {{ metadata_id: 8 offset_ps: 0 duration_ps: 40000000 }} }}
  event_metadata {{ key: 1 value {{ id: 1 name: "7" }} }}
  event_metadata {{ key: 2 value {{ id: 2 name: "jit_run(1234567890123456789)" }} }}
  event_metadata {{ key: 3 value {{ id: 3 display_name: "dot.1"
    name: "%dot.1 = f32[4]{{0:T(128)S(1)}} dot(f32[4]{{0:T(128)}} %x, f32[4]{{0:T(128)}} %x)"
    stats {{ metadata_id: 1 str_value: "jit(run)/jvp(encoder)/dot_general" }}
    stats {{ metadata_id: 2 str_value: "convolution" }}
    stats {{ metadata_id: 3 uint64_value: 1234567890123456789 }} }} }}
  event_metadata {{ key: 4 value {{ id: 4 display_name: "while.3"
    name: "%while.3 = (s32[]{{:T(128)}}, f32[4]{{0:T(128)}}) while(%wrapped)" }} }}
  event_metadata {{ key: 5 value {{ id: 5 display_name: "tanh.2"
    name: "%tanh.2 = f32[4]{{0:T(128)S(1)}} tanh(f32[4]{{0:T(128)}} %gte)" }} }}
  event_metadata {{ key: 6 value {{ id: 6 display_name: "sqrt.5"
    name: "%sqrt.5 = f32[4]{{0:T(128)}} sqrt(f32[4]{{0:T(128)}} %wrapped)" }} }}
  event_metadata {{ key: 7 value {{ id: 7 display_name: "copy-start.1"
    name: "%copy-start.1 = (f32[4]{{0}}, f32[4]{{0}}, u32[]) copy-start(%x)" }} }}
  event_metadata {{ key: 8 value {{ id: 8 name: "encoder" }} }}
  stat_metadata {{ key: 1 value {{ id: 1 name: "tf_op" }} }}
  stat_metadata {{ key: 2 value {{ id: 2 name: "hlo_category" }} }}
  stat_metadata {{ key: 3 value {{ id: 3 name: "program_id" }} }}
  stat_metadata {{ key: 4 value {{ id: 4 name: "run_id" }} }} }}
planes {{ id: {chip + 20} name: "/device:TPU:{chip} SparseCore 0"
  lines {{ id: 1 name: "Sparse Core Ops" timestamp_ns: {BEGIN}
    events {{ metadata_id: 1 offset_ps: 0 duration_ps: 90000000
      stats {{ metadata_id: 1 str_value: "dot.1" }} }} }}
  event_metadata {{ key: 1 value {{ id: 1 name: "dot.1" }} }}
  stat_metadata {{ key: 1 value {{ id: 1 name: "hlo_op" }} }} }}
"""


def gpu(*kernels: tuple[int, str, str]) -> str:
    """Returns the plane of a GPU that runs kernels (at us, hlo_op, path) of 10 us, in step 7."""
    events, names, stream = [], [], []
    for i, (at, op, path) in enumerate(kernels, 1):
        names += [f'event_metadata {{ key: {i} value {{ id: {i} name: "kernel_{i}" }} }}']
        stats = [(1, f'str_value: "{op}"'), (2, 'str_value: "jit_run"'), (3, "uint64_value: 7")]
        stats += [(4, f'str_value: "{path}"'), (5, "uint64_value: 99")]
        told = " ".join(f"stats {{ metadata_id: {k} {v} }}" for k, v in stats)
        events += [
            f"events {{ metadata_id: {i} offset_ps: {at}000000 duration_ps: 10000000 {told} }}"
        ]
    for i, name in enumerate(("hlo_op", "hlo_module", "program_id", "name", "correlation_id"), 1):
        stream += [f'stat_metadata {{ key: {i} value {{ id: {i} name: "{name}" }} }}']
    line = (
        f'lines {{ id: 14 name: "Stream #14(Compute)" timestamp_ns: {BEGIN} {" ".join(events)} }}'
    )
    return f'planes {{ id: 2 name: "/device:GPU:0" {line} {" ".join(names + stream)} }}'
