"use strict";

// A trajectory, token by token.

class Tokens {
  constructor(element, facts) {
    this.element = element;
    this.facts = facts;
    this.spans = [];
    element.addEventListener("click", (event) => {
      const span = event.target.closest(".token");
      if (span) this.point(this.spans.indexOf(span));
    });
  }

  /** Show a trajectory, with the places marked where `text` (lower case) stands, and where it left its parent. */
  show(trajectory, text, parent, fork) {
    this.trajectory = trajectory;
    this.fork = parent === null ? {} : { at: fork, text: `left trajectory ${parent}` };
    this.spans = [];
    this.at = -1;
    this.values = Object.fromEntries(Object.keys(QUANTITIES).map((name) => [name, valuesOf(trajectory, name)]));
    this.positions = trajectory.actions.flatMap(([start, end]) => Array.from({ length: end - start }, (_, i) => start + i));
    const found = placesOf(trajectory.tokens, text);
    const calls = [...trajectory.calls];
    const blocks = trajectory.segments.map(([start, end, kind, title]) => {
      const block = make("section", `segment ${kind}`);
      block.append(make("h3", "", `${title} · ${end - start} token${end - start === 1 ? "" : "s"}`));
      const body = make("div", "body");
      block.append(body);
      if (kind === "policy") this.appendTurn(body, start, end, calls, found);
      else this.appendWritten(body, start, end, found);
      return block;
    });
    this.element.replaceChildren(...blocks);
    this.tell();
  }

  appendWritten(body, start, end, found) {
    // Pieces with and without what was searched for.
    for (let from = start; from < end; ) {
      let to = from + 1;
      while (to < end && found.has(to) === found.has(from)) to++;
      const piece = make("span", found.has(from) ? "found" : "");
      appendText(piece, this.trajectory.tokens.slice(from, to).join(""));
      body.append(piece);
      from = to;
    }
  }

  appendTurn(body, start, end, calls, found) {
    let into = body;
    for (let i = start; i < end; i++) {
      if (calls.length && calls[0][0] === i) {
        into = make("span", "call");
        into.setAttribute("aria-label", "tool call");
        body.append(into);
      }
      into.append(this.token(i, found.has(i)));
      if (calls.length && calls[0][1] === i + 1) {
        calls.shift();
        into = body;
      }
    }
  }

  token(i, isFound) {
    const text = this.trajectory.tokens[i];
    const span = make("span", "token");
    appendText(span, text);
    if (!text) span.classList.add("rest"); // of a character that stands in an earlier token
    if (isFound) span.classList.add("found");
    const given = this.given(i);
    if (given) span.dataset.given = given;
    if (this.fork.at === i) span.dataset.fork = this.fork.text;
    this.spans.push(span);
    return span;
  }

  /** The rewards that were given at token `i`, as text. */
  given(i) {
    const { token_rewards: rewards, step_rewards: steps } = this.trajectory;
    return [rewards[i], steps[i]].filter((value) => value !== undefined && value !== null).map(signed).join(" ");
  }

  colour(quantity, scale) {
    this.values[quantity].forEach((value, i) => {
      const span = this.spans[i];
      span.classList.toggle("unknown", value === null);
      span.style.backgroundColor = value === null ? "" : colourOf(quantity, value, scale);
    });
  }

  /** Point at the n-th token of the policy. */
  point(n) {
    if (!this.spans.length) return;
    this.spans[this.at]?.classList.remove("pointed");
    this.at = Math.max(0, Math.min(n, this.spans.length - 1));
    this.spans[this.at].classList.add("pointed");
    this.spans[this.at].scrollIntoView({ block: "nearest" });
    this.tell();
  }

  tell() {
    if (this.at < 0) {
      this.facts.replaceChildren("Click a token, or press → for the first, to read its numbers.");
      return;
    }
    const position = this.positions[this.at];
    const text = make("q", "", oneLine(this.trajectory.tokens[position]));
    const logprob = this.values.logprobs[this.at];
    const rest = [
      `log-probability ${short(logprob)} (${logprob === null ? "–" : `${short(100 * Math.exp(logprob))} %`})`,
      `entropy ${short(this.values.entropies[this.at])} nats`,
      `advantage ${signed(this.values.advantages[this.at])}`,
      `log-ratio ${signed(this.values.log_ratios[this.at])}`,
    ];
    const given = this.given(position);
    if (given) rest.push(`reward here ${given}`);
    this.facts.replaceChildren(`token ${position} `, text, ...rest.flatMap((fact) => [" ", make("span", "whole", `· ${fact}`)]));
  }
}

/** The tokens in which `text` stands, or a part of it. */
function placesOf(tokens, text) {
  const places = new Set();
  if (!text) return places;
  const parts = lowered(tokens);
  const all = parts.join("");
  let token = 0;
  let start = 0; // of `token` in `all`
  for (let at = all.indexOf(text); at >= 0; at = all.indexOf(text, at + text.length)) {
    while (start + parts[token].length <= at) start += parts[token++].length;
    for (let t = token, s = start; t < parts.length && s < at + text.length; s += parts[t++].length) places.add(t);
  }
  return places;
}
