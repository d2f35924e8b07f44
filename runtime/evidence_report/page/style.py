"""What this page adds to the style of the others."""

from __future__ import annotations

STYLE = """
svg { min-width: 700px; } figure { overflow-x: auto; }
svg .own { stroke-width: 4; } svg .thin { stroke-width: 1.6; }
svg .dashed { stroke-dasharray: 7 4; } svg .dotted { stroke-dasharray: 2 4; }
svg .ink { stroke: var(--ink); fill: none; stroke-linejoin: round; }
svg .chance { stroke: var(--dim); stroke-width: 1.6; stroke-dasharray: 7 4; fill: none; }
svg .best { stroke: var(--ink); stroke-width: 1.6; stroke-dasharray: 2 4; fill: none; }
svg .count { fill: var(--dim); opacity: .35; } svg .frame { fill: none; stroke: var(--grid); }
svg .see0 { fill: var(--c0); opacity: .5; } svg .see1 { fill: var(--c1); opacity: .5; }
svg .heat { fill: var(--c1); } svg .right { fill: var(--c0); }
svg .pixels { image-rendering: pixelated; }
.faint { opacity: .45; } td:first-child { min-width: 8em; }
svg .halo { paint-order: stroke; stroke: var(--ground); stroke-width: 5px; }
.interval { display: block; color: var(--dim);
  font-size: 12px; font-weight: 400; }
th, td { padding: 6px 5px; } td { font-size: 14px; }
.findings { border-left: 5px solid var(--c0); background: var(--raised);
  padding: 10px 14px; margin: 16px 0; overflow-wrap: anywhere; } .findings p { margin: 3px 0; }
"""
