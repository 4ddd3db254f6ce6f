"""The cost model against the published sizes, worked out by hand from the papers' settings."""

import pytest

from ssl_jax.nn import cost

GIGA = 1e9
PATCHES = 3 * 16 * 16


def image(clones, size="base"):
    """ViT of data2vec 2.0: tokens, visible, blocks, width, decoder."""
    depth, width, side, keep, dim, layers, kernel, patch = {
        "base": (12, 768, 14, 39, 768, 6, 3, 16),
        "large": (24, 1024, 14, 49, 1024, 3, 5, 16),
        "huge": (32, 1280, 16, 64, 1024, 3, 5, 14),
    }[size]
    tokens = side**2
    return cost.data2vec2_flops(
        tokens,
        keep,
        depth=depth,
        width=width,
        clones=clones,
        prefix=1,
        decoder=cost.decoder_flops(tokens, width, dim, layers, kernel, axes=2),
        local=cost.linear_flops(tokens, 3 * patch**2, width),
        own_local=True,
    )


def audio(clones, frames=779, samples=249_680):
    return cost.data2vec2_flops(
        frames,
        frames - frames // 2,
        depth=12,
        width=768,
        clones=clones,
        decoder=cost.decoder_flops(frames, 768, 384, 4, 7),
        local=cost.waveform_flops(samples, 768),
        positions=cost.position_flops(frames, 768),
    )


def text(clones):
    decoder = cost.decoder_flops(512, 768, 768, 5, 9, groups=1, projection_layers=2)
    return cost.data2vec2_flops(512, 266, depth=12, width=768, clones=clones, decoder=decoder)


def test_a_block_is_24_n_d_squared_and_4_n_squared_d():
    assert cost.block_flops(10, 8) == 24 * 10 * 64 + 4 * 100 * 8
    assert 12 * cost.block_flops(197, 768) == pytest.approx(34.9 * GIGA, rel=2e-3)


@pytest.mark.parametrize(
    ("made", "student", "teacher", "decoder", "total", "per_view"),
    [
        (image(1), 6.85, 34.9, 1.01, 59.4, 59.4),
        (image(4), 6.85, 34.9, 1.01, 130.2, 32.6),
        (image(16), 6.85, 34.9, 1.01, 413.4, 25.8),
        (image(16, "large"), 30.4, 122.8, 2.3, 1698, 106),
        (image(16, "huge"), 82.5, 334, 3.4, 4458, 279),
        (audio(1), 77.3, 160, 0.96, 627, 627),
        (audio(8), 77.3, 160, 0.96, 2270, 284),
        (text(1), 48, 96.6, 29.6, 329, 329),
        (text(8), 48, 96.6, 29.6, 1959, 245),
    ],
)
def test_data2vec2_costs_what_its_settings_say(made, student, teacher, decoder, total, per_view):
    # the table is rounded to two to four digits, and its text row was added up after rounding
    assert made.student == pytest.approx(student * GIGA, rel=6e-3)
    assert made.teacher == pytest.approx(teacher * GIGA, rel=1e-2)
    assert made.decoder == pytest.approx(decoder * GIGA, rel=2e-2)
    assert made.total == pytest.approx(total * GIGA, rel=3e-3)
    assert made.per_view == pytest.approx(per_view * GIGA, rel=4e-3)


@pytest.mark.parametrize(
    ("made", "shares"),
    [
        (image(1), {"student": 0.35, "teacher": 0.59, "decoder": 0.05}),
        (image(16), {"student": 0.80, "teacher": 0.08, "decoder": 0.12}),
        (audio(8), {"student": 0.82, "teacher": 0.07, "decoder": 0.01, "local": 0.10}),
        (text(8), {"student": 0.59, "teacher": 0.05, "decoder": 0.36, "local": 0.0}),
    ],
)
def test_shares_of_the_parts(made, shares):
    found = made.shares()
    assert sum(found.values()) == pytest.approx(1)
    for name, share in shares.items():
        assert found[name] == pytest.approx(share, abs=0.0101), name


def test_what_the_views_share_fades_as_they_grow():
    one, many = image(1), image(1024)
    assert one.total - image(2).total == image(2).total - image(3).total
    assert many.per_view == pytest.approx(3 * (one.student + one.decoder), rel=2e-3)


def test_data2vec_v1_and_mae():
    patches = cost.linear_flops(196, PATCHES, 768)
    head = cost.linear_flops(120, 768, 768)
    vision = cost.data2vec_flops(
        196, depth=12, width=768, prefix=1, local=patches, head=head, own_local=True
    )
    assert vision.total == pytest.approx(140.7 * GIGA, rel=2e-3)
    assert vision.shares()["student"] == pytest.approx(0.75, abs=0.01)
    large = cost.data2vec_flops(196, depth=24, width=1024, prefix=1)
    assert large.total == pytest.approx(492 * GIGA, rel=2e-3)
    speech = cost.data2vec_flops(
        779,
        depth=12,
        width=768,
        local=cost.waveform_flops(249_680, 768),
        positions=cost.position_flops(779, 768),
        head=cost.linear_flops(382, 768, 768),
    )
    assert speech.local == pytest.approx(77 * GIGA, rel=5e-3)
    assert speech.total == pytest.approx(874 * GIGA, rel=1e-3)
    small = {"decoder_depth": 8, "decoder_width": 512, "patch_size": PATCHES}
    for depth, width, total in ((12, 768, 59.0), (24, 1024, 125)):
        made = cost.mae_flops(196, 49, depth=depth, width=width, **small)
        assert made.total == pytest.approx(total * GIGA, rel=6e-3)
