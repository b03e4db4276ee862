// From what was chosen in a view to a place in the model, as it is written: L3.resid_post@4, L3H1.z, L3.mlp_out@-1,
// and L3H1.pattern@5<-4 for the weight of token 5 on token 4.

/** The written place, or "" where what was chosen is none. */
export function placeOf(places, figure) {
  const { layer, head, term } = places, view = figure?.dataset.view, site = figure?.dataset.site;
  const sums = view === "splitting" || term !== undefined; // there a position is where a head read from
  const position = sums ? undefined : places.position ?? places.query;
  const at = position === undefined ? "" : `@${position}`;
  if (layer === undefined) return position === undefined ? "" : `L0.resid_pre${at}`;
  if (head !== undefined && places.query !== undefined && places.key !== undefined) return `L${layer}H${head}.pattern@${places.query}<-${places.key}`;
  if (head !== undefined) return `L${layer}H${head}.z${at}`;
  const part = /\.(attn|mlp)$/.exec(term || "");
  if (part) return `L${layer}.${part[1]}_out@-1`;
  if (site && site !== "z") return `L${layer}.${site}${at}`;
  return `L${layer}.resid_post${at || "@-1"}`;
}

/** What a written place means, in a few words; "" where it cannot be read. */
export function spell(text, tokens) {
  const found = /^L(\d+)(?:H(\d+))?\.([a-z_]+)(?:@(-?\d+))?(?:<-(\d+))?$/.exec(text.trim());
  if (!found) return "";
  const [, layer, head, , at, key] = found, p = at === undefined ? null : Number(at) < 0 ? tokens.length + Number(at) : Number(at);
  const where = p === null ? "all positions" : tokens[p] === undefined ? `position ${p}` : `position ${p} ${tokens[p]}`;
  const read = key === undefined ? "" : `, its weight on ${key} ${tokens[key] ?? ""}`;
  return `layer ${layer}${head === undefined ? "" : `, head ${head}`}, ${where}${read}`;
}

/** Query and key of an attention map: where the event is, or without one where its frame stands; null for the part above the diagonal. */
export function entryAt(canvas, event) {
  const n = canvas.closest("figure.view").querySelectorAll(".tokens .chip").length, cross = canvas.parentElement.querySelector(".cross");
  const box = canvas.getBoundingClientRect(), frame = cross.getBoundingClientRect();
  if (!event && cross.hidden) return null;
  const [x, y] = event ? [event.clientX, event.clientY] : [frame.left + frame.width / 2, frame.top + frame.height / 2];
  const at = [(y - box.top) / box.height, (x - box.left) / box.width].map((v) => Math.min(Math.max(Math.floor(v * n), 0), n - 1));
  return at[1] > at[0] ? null : at;
}
