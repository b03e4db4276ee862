// Asking the server: a question goes out as JSON, events come back until there is an answer.

/** What the server would not do: what, why, what to do. */
export class Refused extends Error {
  constructor(parts) { super(parts.what); this.parts = parts; }
}

async function refusal(response) {
  try { return new Refused((await response.json()).error); } catch {
    return new Refused({ what: `The explorer answered with status ${response.status}.`, why: "", do: "Ask again." });
  }
}

/** Something the server knows already. */
export async function get(path) {
  const response = await fetch(path, { headers: { accept: "application/json" } });
  if (!response.ok) throw await refusal(response);
  return response.json();
}

/** Give up a question by its number, and the loading of a model that nobody else waits for. */
export function giveUp(number) { fetch(`/api/jobs/${number}`, { method: "DELETE", keepalive: true }).catch(() => {}); }

/** The answer to a question. `told` hears of progress; aborting `signal` gives the question up, here and there. */
export async function ask(path, question, told, signal) {
  const response = await fetch(path, { method: "POST", signal, headers: { "content-type": "application/json" }, body: JSON.stringify(question) });
  if (!response.ok) throw await refusal(response);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) throw new Refused({ what: "The explorer stopped before there was an answer.", why: "", do: "Start it again, and ask again." });
    const parts = (text + value).split("\n\n");
    text = parts.pop();
    for (const part of parts) {
      const [, name, data] = /^event: (\w+)\ndata: (.*)$/s.exec(part) || [];
      if (!name) continue;
      const found = JSON.parse(data);
      if (name === "answer") return found;
      if (name === "error") throw new Refused(found);
      if (name === "cancelled") throw new DOMException("The question was given up.", "AbortError");
      told(name, found);
    }
  }
}
