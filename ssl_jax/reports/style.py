"""The style of all pictures, of pages and of matplotlib: colours, fonts, resolution."""

from typing import Any

DPI = 200
# series; most readers can distinguish them, and each is readable on its paper
LIGHT = ["#2b5fa8", "#c2403f", "#2f8a57", "#b06f00", "#7a4fa3", "#0d8291", "#a84a80", "#6b6b2a"]
DARK = ["#6ea4ea", "#f28b82", "#6cc491", "#e3b341", "#b99be0", "#56c2d0", "#e193c0", "#c0bf6a"]
INK, SOFT, LINE = "#1c2128", "#5d6673", "#d5dae1"
# the energy of sound, from none to most
SOUND = [(0, 0, 4), (81, 18, 124), (183, 55, 121), (252, 137, 97), (252, 253, 191)]

MATPLOTLIB: Any = {
    "savefig.dpi": DPI,
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "figure.titlesize": 12,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": SOFT,
    "axes.labelcolor": SOFT,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "text.color": INK,
    "axes.axisbelow": True,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 9,
}
"""Settings for `matplotlib.rc_context`."""
