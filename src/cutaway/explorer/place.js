// From what was chosen in a view to a place in the model, as it is written: L3.resid_post@4, L3H1.z, L3.mlp_out@-1.

/** The written place, or "" where what was chosen is none. */
export function placeOf(places, figure) {
  const { layer, head, term } = places, view = figure?.dataset.view, site = figure?.dataset.site;
  const sums = view === "splitting" || term !== undefined; // there a position is where a head read from
  const position = sums ? undefined : places.position ?? places.query;
  const at = position === undefined ? "" : `@${position}`;
  if (layer === undefined) return position === undefined ? "" : `L0.resid_pre${at}`;
  if (head !== undefined) return `L${layer}H${head}.z${at}`;
  const part = /\.(attn|mlp)$/.exec(term || "");
  if (part) return `L${layer}.${part[1]}_out@-1`;
  if (site && site !== "z") return `L${layer}.${site}${at}`;
  return `L${layer}.resid_post${at || "@-1"}`;
}

/** What a written place means, in a few words; "" where it cannot be read. */
export function spell(text, tokens) {
  const found = /^L(\d+)(?:H(\d+))?\.([a-z_]+)(?:@(-?\d+))?$/.exec(text.trim());
  if (!found) return "";
  const [, layer, head, , at] = found, p = at === undefined ? null : Number(at) < 0 ? tokens.length + Number(at) : Number(at);
  const where = p === null ? "all positions" : tokens[p] === undefined ? `position ${p}` : `position ${p} ${tokens[p]}`;
  return `layer ${layer}${head === undefined ? "" : `, head ${head}`}, ${where}`;
}
