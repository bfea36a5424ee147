"""How report.html looks: its style sheet, by day and by night, on paper and on a phone."""

STYLE = """
:root { color-scheme: light dark; --bg: #fbfaf7; --card: #ffffff; --ink: #20242a; --soft: #626a73;
  --line: #e3dfd6; --kept: #1f6fb4; --dropped: #d9822b; --mark: #ffe39a; --markink: #2a1e00; }
@media (prefers-color-scheme: dark) { :root { --bg: #14161a; --card: #1c1f24; --ink: #e7e4dd;
  --soft: #9aa2ab; --line: #30353c; --kept: #5aa9e6; --dropped: #f0a04b; --mark: #6d5312;
  --markink: #fff3cf; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 70rem; padding: 2rem 1.25rem 5rem; background: var(--bg);
  color: var(--ink); font: 16px/1.5 system-ui, "Segoe UI", "DejaVu Sans", sans-serif;
  font-variant-numeric: tabular-nums; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 1.25rem; margin: 3rem 0 .4rem; }
h3 { font-size: 1rem; margin: 0 0 .5rem; }
p { margin: .3rem 0 1rem; max-width: 46rem; }
.soft, .note { color: var(--soft); }
.note { font-size: .875rem; }
svg { display: block; width: 100%; }
.kept { fill: var(--kept); } .dropped { fill: var(--dropped); } .line { stroke: var(--ink); }
.key::before { content: ""; display: inline-block; width: .75em; height: .75em;
  border-radius: .15em; margin-right: .35em; background: var(--kept); }
.key.out::before { background: var(--dropped); }
.key { margin-right: 1rem; white-space: nowrap; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(9rem, 1fr)); gap: .75rem;
  margin: 1.5rem 0; }
.tile { background: var(--card); border: 1px solid var(--line); border-radius: .6rem;
  padding: .7rem .9rem; }
.tile b { display: block; font-size: 1.5rem; line-height: 1.25; }
.tile span { color: var(--soft); font-size: .875rem; }
.river { height: 13rem; margin-top: 1rem; }
.ruler { display: grid; grid-auto-flow: column; grid-auto-columns: 1fr; color: var(--soft);
  font-size: .8rem; text-align: center; margin-bottom: 1rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .925rem; }
th { text-align: left; font-weight: 500; color: var(--soft); font-size: .8rem;
  border-bottom: 1px solid var(--line); padding: .25rem .5rem; }
td { padding: .3rem .5rem; border-bottom: 1px solid var(--line); vertical-align: top; }
tr > :first-child { padding-left: 0; }
.n { text-align: right; white-space: nowrap; }
.bar { width: 30%; min-width: 5rem; vertical-align: middle; }
.bar svg { height: .9rem; border-radius: .2rem; }
.name { overflow-wrap: anywhere; unicode-bidi: isolate; }
tr:has(+ .below) td { border-bottom: 0; padding-bottom: 0; }
.below td { padding-top: 0; }
.why { color: var(--soft); font-size: .85rem; }
.why span { display: inline-block; margin-right: .9rem; }
.why b { color: var(--dropped); font-weight: 600; }
.plot { position: relative; margin: .5rem 0 1.8rem; border-bottom: 1px solid var(--line); }
.plot svg { height: 9rem; }
.plot span { position: absolute; top: 100%; transform: translateX(-50%); color: var(--soft);
  font-size: .8rem; white-space: nowrap; }
.spark { width: 9rem; } .spark svg { height: 1.3rem; }
.two { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr));
  gap: 1rem 2.5rem; }
.two > * { min-width: 0; }
details { border-top: 1px solid var(--line); }
summary { cursor: pointer; padding: .55rem 0; }
summary b { font-weight: 600; }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 22rem), 1fr));
  gap: .9rem; padding: .3rem 0 1.2rem; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: .6rem;
  padding: .8rem .9rem; min-width: 0; }
.card .url { font-size: .8rem; overflow-wrap: anywhere; color: var(--soft); unicode-bidi: isolate; }
.card .reason { font-size: .85rem; overflow-wrap: anywhere; margin: .3rem 0; }
.card .reason:empty { display: none; }
.card pre { margin: .5rem 0 0; font: .85rem/1.45 ui-serif, Georgia, "DejaVu Serif", serif;
  white-space: pre-wrap; overflow-wrap: anywhere; max-height: 17rem; overflow-y: auto;
  unicode-bidi: isolate; }
mark { background: var(--mark); color: var(--markink); border-radius: .15em; }
@media (max-width: 40rem) { .wide { display: none; } body { padding: 1.2rem .9rem 4rem; }
  .bar { width: 18%; min-width: 3rem; } .river { height: 9rem; }
  table { font-size: .85rem; } td, th { padding-left: .2rem; padding-right: .2rem; } }
@media print { .card pre { max-height: none; } }
"""
