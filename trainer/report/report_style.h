// The style sheet of a report. Colours are those of Okabe and Ito (2008), which people with any
// kind of colour vision tell apart; in the dark the same hues, lighter.
#pragma once

namespace facetrain {

inline constexpr const char* kReportStyle =
    R"(
:root { color-scheme: light dark;
  --page: #f6f7f9; --card: #ffffff; --ink: #1b1f24; --soft: #5b6570; --line: #dde1e6; --grid: #e8ebef;
  --hover: rgba(0, 0, 0, .06); --good: #00734f; --bad: #b34700; --accent: #0068a3;
  --c0: #0072b2; --c1: #d55e00; --c2: #009e73; --c3: #b3558f; --c4: #a67c00; --c5: #3aa0d8; }
@media (prefers-color-scheme: dark) { :root {
  --page: #14171b; --card: #1c2026; --ink: #e7eaee; --soft: #9aa5b1; --line: #303740; --grid: #2a3038;
  --hover: rgba(255, 255, 255, .08); --good: #4ccfa0; --bad: #ff9d5c; --accent: #6cbcf0;
  --c0: #56b4e9; --c1: #f08a4b; --c2: #2fc79a; --c3: #e39ac8; --c4: #e6c229; --c5: #9db2ff; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); font: 15px/1.5 system-ui, sans-serif; }
main { max-width: 1120px; margin: 0 auto; padding: 28px 20px 60px; }
h1 { font-size: 26px; line-height: 1.25; margin: 2px 0 6px; overflow-wrap: anywhere; }
h2 { font-size: 18px; margin: 40px 0 12px; }
h3 { font-size: 15px; margin: 22px 0 8px; }
p { margin: 6px 0; }
a { color: var(--accent); }
.soft, .note { color: var(--soft); }
.note { font-size: 13px; margin: 8px 0 0; }
.kicker { color: var(--soft); font-size: 13px; margin: 0; }
nav { display: flex; flex-wrap: wrap; gap: 4px 16px; margin-top: 14px; font-size: 14px; }
nav a { text-decoration: none; }
.badge { display: inline-block; padding: 1px 9px; border-radius: 999px; font-size: 13px; font-weight: 600;
  border: 1px solid currentColor; }
.good { color: var(--good); } .bad { color: var(--bad); }
.grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 440px), 1fr)); gap: 16px; align-items: start; }
.below { margin-top: 16px; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(158px, 1fr)); gap: 12px; margin-top: 20px; }
.card, .tile { background: var(--card); border: 1px solid var(--line); border-radius: 10px; }
.card { padding: 14px 16px; margin: 0; min-width: 0; }
.tile { padding: 12px 14px; }
.tile b { display: block; font-size: 22px; line-height: 1.3; font-variant-numeric: tabular-nums; }
.tile span { color: var(--soft); font-size: 13px; display: block; overflow-wrap: anywhere; }
figcaption { display: flex; justify-content: space-between; gap: 12px; font-weight: 600; margin-bottom: 6px; }
figcaption span:last-child { font-weight: 400; color: var(--soft); font-variant-numeric: tabular-nums; text-align: right; }
.legend { display: flex; flex-wrap: wrap; gap: 2px 14px; font-size: 13px; color: var(--soft); margin: 4px 0 0 0; padding: 0; list-style: none; }
.legend li { display: flex; align-items: center; gap: 6px; overflow-wrap: anywhere; }
.legend i { width: 16px; height: 3px; border-radius: 2px; flex: none; }
svg { display: block; width: 100%; height: auto; overflow: visible; }
svg.plot { overflow: hidden; }
svg .tick { font: 11px system-ui, sans-serif; fill: var(--soft); font-variant-numeric: tabular-nums; }
svg .end { text-anchor: end; } svg .mid { text-anchor: middle; }
svg path { fill: none; pointer-events: none; } svg circle, svg text { pointer-events: none; }
svg .grid { stroke: var(--grid); } svg .axis { stroke: var(--soft); }
svg .mark { stroke: var(--soft); stroke-dasharray: 4 3; }
svg .mark + text { paint-order: stroke; stroke: var(--card); stroke-width: 4px; }
svg .line { stroke-width: 1.8; stroke-linejoin: round; }
svg .pale { stroke-width: 1; opacity: .32; }
svg .area { stroke-width: 1.5; fill-opacity: .22; }
svg .hover { fill: transparent; } svg .hover:hover { fill: var(--hover); }
)"
    R"(.c0 { stroke: var(--c0); } .c1 { stroke: var(--c1); } .c2 { stroke: var(--c2); }
.c3 { stroke: var(--c3); } .c4 { stroke: var(--c4); } .c5 { stroke: var(--c5); }
svg path.area.c0, .f0 { fill: var(--c0); } svg path.area.c1, .f1 { fill: var(--c1); } svg path.area.c2, .f2 { fill: var(--c2); }
svg path.area.c3, .f3 { fill: var(--c3); } svg path.area.c4, .f4 { fill: var(--c4); } svg path.area.c5, .f5 { fill: var(--c5); }
.b0 { background: var(--c0); } .b1 { background: var(--c1); } .b2 { background: var(--c2); }
.b3 { background: var(--c3); } .b4 { background: var(--c4); } .b5 { background: var(--c5); }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: 14px; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: 5px 10px; border-bottom: 1px solid var(--line); vertical-align: top; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
td:last-child, th:last-child { padding-right: 0; }
tr:last-child > * { border-bottom: 0; }
thead th { color: var(--soft); font-weight: 600; }
tbody th { font-weight: 600; }
table.words td, table.words th { text-align: left; white-space: normal; }
table.words th { white-space: nowrap; }
table.words td { overflow-wrap: anywhere; }
table.words thead ~ tbody td { min-width: 8em; }
td small, th small { white-space: normal; }
table small { display: block; color: var(--soft); font-size: 12px; font-weight: 400; }
details { margin-top: 12px; }
details > summary { cursor: pointer; font-weight: 600; padding: 4px 0; }
pre { margin: 8px 0 0; padding: 12px 14px; background: var(--page); border: 1px solid var(--line); border-radius: 8px;
  overflow-x: auto; font: 13px/1.5 ui-monospace, monospace; }
.bar { display: flex; height: 22px; border-radius: 6px; overflow: hidden; margin-bottom: 14px; gap: 1px; }
.bar i { min-width: 1px; }
.swatch { display: inline-block; width: 11px; height: 11px; border-radius: 3px; margin-right: 8px; }
.b6 { background: #7f8a96; } .b7 { background: #b9c1ca; } .b8 { background: #56606b; }
.pairs { display: grid; grid-template-columns: repeat(auto-fill, minmax(236px, 1fr)); gap: 12px; }
.pair { padding: 10px; }
.pair div { display: flex; gap: 4px; }
.pair img { width: 50%; min-width: 0; aspect-ratio: 1; object-fit: cover; border-radius: 6px; background: var(--grid); }
.pair p { display: flex; justify-content: space-between; gap: 6px; margin: 6px 0 2px; font-size: 14px; font-variant-numeric: tabular-nums; }
.pair small { display: block; color: var(--soft); font-size: 12px; overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
footer { margin-top: 44px; color: var(--soft); font-size: 13px; }
@media (max-width: 520px) { main { padding: 18px 12px 40px; } .card { padding: 12px; } h1 { font-size: 22px; }
  svg .tick { font-size: 14px; }
  .tiles { grid-template-columns: repeat(2, minmax(0, 1fr)); } .pairs { grid-template-columns: repeat(2, minmax(0, 1fr)); } }
@media print { body { background: none; } .card, .tile { break-inside: avoid; } nav { display: none; } }
)";

}  // namespace facetrain
