/** Style sheet of the docs page. The page loads no font and no picture. */
export const STYLE = `
:root { color-scheme: light dark; --line: #8884; --soft: #8881; --dim: #777; --accent: #0a6; }
* { box-sizing: border-box; }
body { margin: 0; font: 15px/1.5 system-ui, sans-serif; display: grid; grid-template-columns: 17rem minmax(0, 1fr); }
nav { position: sticky; top: 0; height: 100vh; overflow-y: auto; padding: 1rem; border-right: 1px solid var(--line); }
nav input { width: 100%; margin: .8rem 0 .2rem; padding: .35rem .5rem; font: inherit; border: 1px solid var(--line); border-radius: 4px; }
nav output { font-size: .8rem; color: var(--dim); }
[hidden] { display: none !important; }
tr.hit > th code { background: #fd06; }
nav h2 { font-size: .8rem; text-transform: uppercase; letter-spacing: .05em; color: var(--dim); margin: 1.2rem 0 .3rem; }
nav a { display: block; text-decoration: none; color: inherit; padding: .1rem 0; font-size: .85rem; }
nav a:hover { color: var(--accent); }
main { padding: 1.5rem 2.5rem 6rem; max-width: 70rem; }
h1 { margin: 0; } h2 { margin: 3rem 0 .3rem; } h4 { margin: 1rem 0 .2rem; }
p { margin: .3rem 0; } small, .dim { color: var(--dim); } a { color: var(--accent); }
code { font: .88em ui-monospace, monospace; background: var(--soft); padding: .05em .3em; border-radius: 3px; overflow-wrap: anywhere; }
pre { font: .82em/1.45 ui-monospace, monospace; background: var(--soft); padding: .5em .7em; border-radius: 3px; overflow-x: auto; }
details { border: 1px solid var(--line); border-radius: 6px; margin: .5rem 0; }
details > div { padding: 0 1rem 1rem; border-top: 1px solid var(--line); }
/* Open the target of a link, in browsers that support it. */
details:target::details-content { content-visibility: visible; block-size: auto; }
details:target { border-color: var(--accent); }
summary { cursor: pointer; padding: .5rem .8rem; display: flex; gap: .8rem; align-items: baseline; flex-wrap: wrap; }
summary code { background: none; font-size: .95em; }
summary .dim { margin-left: auto; }
.method { font: 700 .75rem ui-monospace, monospace; width: 4.2rem; text-align: center; border-radius: 4px; padding: .15rem 0; color: #fff; background: #567; }
.get { background: #27c; } .post { background: #183; } .delete { background: #b33; } .put, .patch { background: #a60; }
table { border-collapse: collapse; width: 100%; margin: .3rem 0; }
th, td { text-align: left; vertical-align: top; padding: .25rem .8rem .25rem 0; border-bottom: 1px solid var(--line); font-weight: 400; }
th { width: 14rem; white-space: nowrap; } th b { color: #c33; }
td table { font-size: .95em; }
@media (max-width: 50rem) { body { display: block; } nav { position: static; height: auto; border: 0; } nav a, nav h2 { display: none; } main { padding: 1rem; } th { width: auto; white-space: normal; } }
`;
