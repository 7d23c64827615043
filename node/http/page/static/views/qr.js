// A text as a picture that a phone reads.

import { Failure, html, useEffect, useState } from "../lib.js";

const QUIET = 4; // what a reader needs to see around it, in squares

export function Qr({ text, label }) {
  const [state, setState] = useState({});
  useEffect(() => {
    let gone = false;
    import("../vendor/lean-qr.js")
      .then(({ generate }) => generate(text))
      .then((code) => gone || setState({ code }), () => gone || setState({ error: "This is too long for a picture; send it as text." }));
    return () => (gone = true);
  }, [text]);
  if (state.error) return html`<${Failure} error=${state.error}/>`;
  if (!state.code) return null;
  const { code } = state;
  let path = "";
  for (let y = 0; y < code.size; y++) for (let x = 0; x < code.size; x++) if (code.get(x, y)) path += `M${x},${y}h1v1h-1z`;
  const whole = code.size + 2 * QUIET;
  return html`<svg class="qr" role="img" aria-label=${label} viewBox=${`${-QUIET} ${-QUIET} ${whole} ${whole}`} shape-rendering="crispEdges">
    <rect x=${-QUIET} y=${-QUIET} width=${whole} height=${whole}/><path d=${path}/></svg>`;
}
