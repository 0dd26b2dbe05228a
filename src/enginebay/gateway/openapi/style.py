"""How the page of the API looks."""

STYLE = """
:root{color-scheme:light dark;--ink:#1c1f24;--paper:#fff;--soft:#5b6472;--line:#e3e7ed;--panel:#f6f8fa;--link:#0b57d0;
--get:#0a7d4f;--post:#8a4600}
@media (prefers-color-scheme:dark){:root{--ink:#e6e9ee;--paper:#14171c;--soft:#9aa4b2;--line:#2a3039;--panel:#1c2128;
--link:#8ab4f8;--get:#4cc38a;--post:#ffb457}}
*{box-sizing:border-box}
body{font:16px/1.55 system-ui,sans-serif;max-width:64rem;margin:0 auto;padding:2.5rem 1.25rem 5rem;color:var(--ink);
background:var(--paper)}
h1{font-size:2rem;margin:0 0 .5rem}h1 small{font-size:1rem;font-weight:400;color:var(--soft);margin-left:.4rem}
h2{margin:3rem 0 1rem;padding-bottom:.3rem;border-bottom:2px solid var(--line)}
h3{margin:2.25rem 0 .25rem;scroll-margin-top:1rem}h3+p{margin:0 0 .5rem;color:var(--soft)}
header p{max-width:52rem}nav{display:flex;gap:1.25rem;flex-wrap:wrap}a{color:var(--link);text-decoration:none}
a:hover{text-decoration:underline}
code,pre{font:13.5px/1.5 ui-monospace,SFMono-Regular,Menlo,monospace}
td code+code{margin-left:.25rem}code{white-space:nowrap;background:var(--panel);border-radius:4px;padding:.1em .35em}
pre{background:var(--panel);border:1px solid var(--line);border-radius:8px;padding:.9rem 1rem;
overflow-x:auto;white-space:pre}
table{border-collapse:collapse;width:100%;margin:.5rem 0 1rem;font-size:.94rem}
th{color:var(--soft);font-weight:600;font-size:.82rem}
td,th{text-align:left;vertical-align:top;padding:.4rem .9rem .4rem 0;border-bottom:1px solid var(--line)}
td:first-child{white-space:nowrap}em{font-style:normal;font-size:.78rem;color:var(--post);margin-left:.3rem}
details{border:1px solid var(--line);border-radius:8px;margin:.5rem 0;padding:0 1rem}
details[open]{padding-bottom:.75rem}summary{cursor:pointer;padding:.7rem 0;list-style-position:inside}
summary code{background:none;font-size:15px}.says{color:var(--soft);margin-left:.4rem}
.method{display:inline-block;min-width:3.6rem;font-weight:700;font-size:.82rem;letter-spacing:.03em}
.get{color:var(--get)}.post{color:var(--post)}
"""
