"use strict";

// A group as a drawing: a line for each trajectory, as long as it has tokens, that leaves its parent's where it branched
// off (or all of them the prompt), with its reward at the end.

const SVG = "http://www.w3.org/2000/svg";
const TREE = { row: 22, left: 10, right: 150, top: 14, bottom: 26 };

function svg(tag, attributes, text = "") {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  if (text) element.textContent = text;
  return element;
}

/** The trajectories of a group, each behind its parent, the branches that left last first: no lines cross. */
function treeOrder(rollouts, start, end) {
  const branches = new Map();
  for (let i = start; i < end; i++) {
    const parent = rollouts.parent[i] === null ? null : start + rollouts.parent[i];
    if (!branches.has(parent)) branches.set(parent, []);
    branches.get(parent).push(i);
  }
  const order = [];
  const visit = (i) => {
    order.push(i);
    const own = branches.get(i) ?? [];
    own.sort((a, b) => rollouts.fork[b] - rollouts.fork[a] || a - b).forEach(visit);
  };
  (branches.get(null) ?? []).forEach(visit);
  return order;
}

/** Draw the group of trajectory `i` into `element`. `tokens[k]` and `prompts[k]`: tokens in all and in the prompt of its k-th. */
function drawTree(element, rollouts, i, tokens, prompts, chosen) {
  const [start, end] = rollouts.groupOf(i);
  const order = treeOrder(rollouts, start, end);
  const width = Math.max(300, element.clientWidth);
  const height = TREE.top + order.length * TREE.row + TREE.bottom;
  const longest = Math.max(...tokens);
  const x = (token) => TREE.left + (token / longest) * (width - TREE.left - TREE.right);
  const y = (number) => TREE.top + (order.indexOf(number) + 0.5) * TREE.row;
  const picture = svg("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "group" });
  picture.setAttribute("aria-label", "The group's trajectories, from the first token to the last");

  const trunk = Math.min(...prompts);
  const roots = order.filter((number) => rollouts.parent[number] === null);
  picture.append(svg("path", { class: "prompt", d: `M${x(0)} ${y(roots[0])} H${x(trunk)}` }));
  picture.append(svg("path", { class: "prompt", d: `M${x(trunk)} ${y(roots[0])} V${y(roots.at(-1))}` }));
  for (const number of order) {
    const parent = rollouts.parent[number];
    const from = parent === null ? trunk : rollouts.fork[number];
    const line = svg("g", { class: "trajectory", "data-number": number, tabindex: -1 });
    if (number === i) line.classList.add("selected");
    const rise = parent === null ? "" : `M${x(from)} ${y(start + parent)} V${y(number)} `;
    line.append(svg("path", { class: "line", d: `${rise}M${x(from)} ${y(number)} H${x(tokens[number - start])}` }));
    const reward = rollouts.reward[number];
    const kind = reward === null ? "abstained" : reward > 0 ? "positive" : "nought";
    line.append(svg("circle", { class: kind, cx: x(tokens[number - start]), cy: y(number), r: 4.5 }));
    const label = `${rollouts.index[number]}: ${reward === null ? "abstained" : `reward ${short(reward)}`}`;
    line.append(svg("text", { x: x(tokens[number - start]) + 10, y: y(number) + 4 }, label));
    // A wide target for the pointer.
    line.append(svg("rect", { x: x(from), y: y(number) - TREE.row / 2, width: width - x(from), height: TREE.row, class: "target" }));
    line.addEventListener("click", () => chosen(number));
    picture.append(line);
  }
  picture.append(svg("path", { class: "chosen", d: pathTo(rollouts, i, start, trunk, tokens[i - start], x, y) }));

  const axis = height - TREE.bottom + 6;
  picture.append(svg("path", { class: "axis", d: `M${x(0)} ${axis} H${x(longest)}` }));
  picture.append(svg("text", { class: "axis", x: x(0), y: axis + 14 }, "0"));
  picture.append(svg("text", { class: "axis", x: x(longest), y: axis + 14, "text-anchor": "middle" }, String(longest)));
  picture.append(svg("text", { class: "axis", x: x(longest) + 24, y: axis + 14 }, "tokens"));
  element.replaceChildren(picture);
  element.scrollTop = y(i) - element.clientHeight / 2;
}

/** The line from the prompt to the end of trajectory `i`, along those that it branched off. */
function pathTo(rollouts, i, start, trunk, end, x, y) {
  const parent = rollouts.parent[i];
  const from = parent === null ? trunk : rollouts.fork[i];
  const own = `M${x(end)} ${y(i)} H${x(from)}`;
  return parent === null ? own : `${own} V${y(start + parent)} ${pathTo(rollouts, start + parent, start, trunk, from, x, y)}`;
}
