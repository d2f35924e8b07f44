"""The page's style: light and dark, and colours that the colour-blind can tell apart.

The colours are those of Okabe and Ito (2008), some of them lighter on dark ground. Nothing is
told by colour alone: whatever has one has its name beside it.
"""

from __future__ import annotations

COLOURS = 6

STYLE = """
:root { color-scheme: light dark; --ground: #fff; --raised: #f6f7f8; --ink: #16191d;
  --dim: #59616b; --grid: #e2e5e9; --bad: #b3261e; --bad-ground: #fdecea; --good: #00674a;
  --c0: #0072b2; --c1: #d55e00; --c2: #009e73; --c3: #cc79a7; --c4: #8a6d00; --c5: #4b92c9; }
@media (prefers-color-scheme: dark) { :root { --ground: #14171a; --raised: #1d2125;
  --ink: #eceff2; --dim: #a3abb5; --grid: #30363d; --bad: #ff8a80; --bad-ground: #3a1a18;
  --good: #4fd1a5; --c0: #56b4e9; --c1: #ff8f3f; --c2: #2cc796; --c3: #e39cc4;
  --c4: #f0e442; --c5: #8fc3ea; } }
body { margin: 0; background: var(--ground); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif; }
main { max-width: 980px; margin: 0 auto; padding: 28px 24px 48px; }
h1 { font-size: 27px; line-height: 1.2; margin: 0 0 4px; overflow-wrap: anywhere; }
h2 { font-size: 20px; margin: 40px 0 4px; }
p { margin: 4px 0; } .dim, figcaption { color: var(--dim); font-size: 14px; }
figure { margin: 10px 0 0; } svg { width: 100%; height: auto; display: block; overflow: visible; }
table { border-collapse: collapse; width: 100%; margin: 12px 0; font-size: 15px;
  font-variant-numeric: tabular-nums; }
th, td { text-align: right; white-space: nowrap; padding: 6px 8px;
  border-bottom: 1px solid var(--grid);
  vertical-align: top; }
th { color: var(--dim); font-weight: 600; font-size: 13px; }
th:first-child, td:first-child, .left { text-align: left;
  white-space: normal; overflow-wrap: break-word; }
.wide { overflow-x: auto; }
.warning { background: var(--bad-ground); color: var(--bad); border-left: 5px solid var(--bad);
  padding: 10px 14px; margin: 16px 0; font-weight: 600; }
.warning p { margin: 2px 0; }
.replayed { border: 2px solid var(--bad); color: var(--bad); font-weight: 700;
  letter-spacing: .06em; padding: 0 8px; font-size: 13px; }
.valid { color: var(--good); font-weight: 700; } .invalid { color: var(--bad); font-weight: 700; }
.chip { display: inline-block; width: 11px; height: 11px; border-radius: 3px; margin-right: 7px; }
svg text { fill: var(--ink); font: 14px system-ui, sans-serif; font-variant-numeric: tabular-nums; }
svg .tick { fill: var(--dim); font-size: 13px; } svg .axis { fill: var(--dim); font-size: 14px; }
svg .name { font-weight: 600; } svg .small { font-size: 13px; fill: var(--dim); }
svg .grid { stroke: var(--grid); stroke-width: 1; } svg .bad { fill: var(--bad); font-weight: 600; }
svg .rule { stroke: var(--dim); stroke-width: 1.5; stroke-dasharray: 5 4; fill: none; }
svg .frontier { stroke: var(--dim); stroke-width: 1.5; fill: none; }
svg .median { stroke: var(--ink); stroke-width: 2.5; }
svg .tail { stroke: var(--ink); stroke-width: 1.5; stroke-dasharray: 2 3; }
svg .slow { fill: var(--bad); opacity: .22; } svg .band { fill: var(--raised); }
svg .mark { fill: var(--bad); opacity: .18; font-size: 64px; font-weight: 800;
  letter-spacing: .08em; }
svg .floor { fill: var(--dim); opacity: .45; }
"""


def _of_colours() -> str:
    """Return a fill, an area and a stroke for each colour."""
    return "".join(
        f"svg .fill{n} {{ fill: var(--c{n}); }} svg .area{n} {{ fill: var(--c{n}); opacity: .7; }} "
        f"svg .line{n} {{ stroke: var(--c{n}); stroke-width: 2; fill: none; "
        f"stroke-linejoin: round; }} .chip{n} {{ background: var(--c{n}); }}\n"
        for n in range(COLOURS)
    )


def style() -> str:
    """Return all of the page's style."""
    return STYLE + _of_colours()
