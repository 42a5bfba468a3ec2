// The status line at the top: what is wrong now, by who says it. Empty while all is well.

const said = new Map();

/** Says `message` for `who`; null takes it back. */
export function report(who, message) {
  if ((said.get(who) ?? null) === message) return;
  if (message) said.set(who, message);
  else said.delete(who);
  const line = document.getElementById('status');
  if (line) line.textContent = [...new Set(said.values())].join(' ');
}
