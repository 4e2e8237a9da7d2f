"use strict";

// Which trajectories are shown.

class Filters {
  /** `changed(numbers)` is called with the trajectories that pass, whenever these may be others. */
  constructor(form, rollouts, changed) {
    this.form = form;
    this.rollouts = rollouts;
    this.changed = changed;
    this.count = form.querySelector("output");
    this.run = 0;
    for (const step of rollouts.steps) form.elements.step.append(new Option(step, step));
    rollouts.stops.forEach((stop, number) => form.elements.stop.append(new Option(oneLine(stop), number)));
    form.addEventListener("submit", (event) => event.preventDefault());
    form.addEventListener("input", () => this.later());
    form.addEventListener("reset", () => setTimeout(() => this.apply()));
    const unfold = form.querySelector("#unfold");
    unfold.addEventListener("click", () => {
      unfold.setAttribute("aria-expanded", String(form.classList.toggle("unfolded")));
    });
  }

  get text() {
    return this.form.elements.text.value.toLowerCase();
  }

  later() {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.apply(), 120);
  }

  async apply() {
    const run = ++this.run;
    const passed = this.byNumbers();
    const found = this.text ? await this.byText(passed, this.text, run) : passed;
    if (run !== this.run) return; // the filters have changed in the meantime
    const all = this.rollouts.size.toLocaleString("en");
    this.count.textContent = found.length === this.rollouts.size ? `all ${all}` : `${found.length.toLocaleString("en")} of ${all}`;
    this.changed(found);
  }

  byNumbers() {
    const { step, rewardLeast, rewardMost, lengthLeast, lengthMost, stop, score } = this.form.elements;
    const r = this.rollouts;
    const [leastReward, mostReward] = [rewardLeast.valueAsNumber, rewardMost.valueAsNumber];
    const [leastLength, mostLength] = [lengthLeast.valueAsNumber, lengthMost.valueAsNumber];
    // A bound that is not given is NaN, and nothing is below it; what abstained has no reward to be within bounds.
    const bounded = !Number.isNaN(leastReward) || !Number.isNaN(mostReward);
    const passed = [];
    for (const i of r.order) {
      const abstained = r.reward[i] === null;
      if (step.value && r.step[i] !== Number(step.value)) continue;
      if (stop.value && r.stop[i] !== Number(stop.value)) continue;
      if (score.value && abstained !== (score.value === "abstained")) continue;
      if (bounded && (abstained || r.reward[i] < leastReward || r.reward[i] > mostReward)) continue;
      if (r.length[i] < leastLength || r.length[i] > mostLength) continue;
      passed.push(i);
    }
    return passed;
  }

  async byText(numbers, text, run) {
    const found = [];
    let paused = performance.now();
    for (const i of numbers) {
      if ((await this.rollouts.text(i)).includes(text)) found.push(i);
      if (performance.now() - paused > 50) {
        this.count.textContent = `searching … ${found.length}`;
        await new Promise((resolve) => setTimeout(resolve));
        if (run !== this.run) return found;
        paused = performance.now();
      }
    }
    return found;
  }
}
