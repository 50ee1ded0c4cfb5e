/** Text made safe to stand in HTML, in an attribute too: for what the page of a stand-in shows of what it was sent. */
export function html(text: string): string {
  return text.replace(/[&<>"']/g, (character) => `&#${character.charCodeAt(0)};`)
}

/** A cell of a table; what may be too long for its column is shown whole when pointed at. */
export function cell(text: string, kind = 'string'): string {
  return `<td class="${kind}"${text.length > 40 ? ` title="${html(text)}"` : ''}>${html(text)}</td>`
}

/** A part of the page, and the CSS that only it needs. */
interface Section {
  page(): string
  readonly style?: string
}

/** The sandbox's one page. It holds no script; `refresh` seconds reload it, 0 does not. */
export function page(sections: readonly Section[], refresh: number): string {
  return `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
${refresh > 0 ? `<meta http-equiv="refresh" content="${Math.max(1, refresh)}">` : ''}
<title>Spillway sandbox</title>
<style>${[style, ...sections.map((section) => section.style ?? '')].join('')}</style>
</head>
<body>
<header><strong>Spillway sandbox</strong><span>A local stand-in. Nothing here left this machine.</span></header>
<main>
${sections.map((section) => section.page()).join('\n')}
</main>
</body>
</html>
`
}

const style = `
:root { --line: #e1e4e8; --soft: #f6f8fa; --ink: #1f2328; --faint: #6e7781; --green: #188038; --blue: #0b57d0; }
* { box-sizing: border-box; }
body { margin: 0; color: var(--ink); background: #fff; font: 14px/1.45 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
header { display: flex; gap: 12px; align-items: baseline; padding: 12px 24px; border-bottom: 1px solid var(--line); background: var(--soft); }
header span, .note { color: var(--faint); font-size: 13px; }
main { padding: 8px 24px 48px; }
h2 { margin: 24px 0 4px; font-size: 20px; font-weight: 600; }
h2 code { margin-left: 8px; color: var(--faint); font-size: 12px; font-weight: 400; }
h3 { display: inline-block; margin: 16px 0 0; padding: 4px 14px; border: 1px solid var(--line); border-bottom: 2px solid var(--green); border-radius: 6px 6px 0 0; background: #fff; color: var(--green); font-size: 13px; font-weight: 600; }
h3 small { margin-left: 8px; color: var(--faint); font-weight: 400; }
.grid { width: fit-content; max-width: 100%; max-height: 70vh; overflow: auto; border: 1px solid var(--line); border-right: 0; border-bottom: 0; }
table { border-collapse: separate; border-spacing: 0; font-variant-numeric: tabular-nums; }
th, td { max-width: 28em; height: 26px; padding: 2px 10px; border-right: 1px solid var(--line); border-bottom: 1px solid var(--line); overflow: hidden; text-overflow: ellipsis; white-space: pre; text-align: left; vertical-align: middle; }
th { position: sticky; z-index: 1; background: var(--soft); color: var(--faint); font-size: 12px; font-weight: 400; text-align: center; }
thead th { top: 0; }
tbody th { left: 0; min-width: 3.2em; text-align: right; }
thead th:first-child { left: 0; z-index: 2; }
tr.head td { font-weight: 600; }
td.number { text-align: right; }
td.boolean { color: var(--blue); font-size: 12px; text-align: center; }
td.formula { background: #fff8e1; color: #7a4f01; font-family: ui-monospace, SFMono-Regular, Menlo, monospace; font-size: 12.5px; }
td.blank { background: repeating-linear-gradient(135deg, #fff 0 5px, #f3f5f7 5px 6px); }
.note { margin: 6px 0; }
`
