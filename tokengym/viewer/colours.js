"use strict";

// What tokens are coloured by. Two hues that colour-blind people tell apart for what has a sign, one for what has none;
// strength is magnitude. They are laid over the page's background, so that they serve in the light and in the dark.

const QUANTITIES = {
  advantages: { name: "advantage", two: true, unit: "", low: "worse", high: "better" },
  entropies: { name: "entropy", two: false, unit: "nats", low: "sure", high: "unsure" },
  log_ratios: { name: "log-ratio", two: true, unit: "", low: "learner less likely", high: "learner more likely" },
  logprobs: { name: "log-probability", two: false, unit: "", low: "likely", high: "unlikely" },
};

/** The background of a token, as CSS; the fullest at `scale`. */
function colourOf(quantity, value, scale) {
  const share = Math.round(100 * Math.min(1, Math.abs(value) / scale));
  const hue = !QUANTITIES[quantity].two ? "--single" : value < 0 ? "--negative" : "--positive";
  return `color-mix(in srgb, var(${hue}) ${share}%, transparent)`;
}

/** Fill `element` with the scale of `quantity`. */
function drawLegend(element, quantity, scale) {
  const { name, two, unit, low, high } = QUANTITIES[quantity];
  const far = quantity === "logprobs" ? -scale : scale;
  const ends = two ? [-scale, scale] : [0, far];
  const strip = make("span", "strip");
  for (let i = 0; i <= 10; i++) {
    const swatch = make("span");
    swatch.style.background = colourOf(quantity, ends[0] + (i / 10) * (ends[1] - ends[0]), scale);
    strip.append(swatch);
  }
  const label = (value, word) => make("span", "end", `${two ? signed(value) : short(value)}${unit && ` ${unit}`} ${word}`);
  element.replaceChildren(label(ends[0], low), strip, label(ends[1], high), make("span", "unknown-key", "not computed"));
  element.setAttribute("aria-label", `${name} from ${short(ends[0])} (${low}) to ${short(ends[1])} (${high})`);
}
