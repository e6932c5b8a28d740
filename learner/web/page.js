// Asks the learner once a second and shows what it says. Text is set as text, never as markup.

import { Chart, figure, joined } from "./charts.js";

const EVERY_MS = 1000;
const PATIENCE_MS = 5000;
const LONGEST_PAUSE_MS = 15000;
const KNOWN = new Set(["env_steps", "env_steps_per_s", "mean_return", "staleness", "table_fill", "learner_wait_share", "actors_act_share"]);
const ENDINGS = { budget: "its budget is used up", solved: "the target return was reached", interrupted: "it was stopped" };
const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const one = new Intl.NumberFormat("en", { minimumFractionDigits: 1, maximumFractionDigits: 1 });

const $ = (id) => document.getElementById(id);
let about = null;
let live = null;
let failures = 0;
let lastAnswer = null;
let timer = 0;
const charts = new Map();

async function get(name) {
  const url = location.origin + location.pathname + name; // without the token that the page's own address may have
  const answer = await fetch(url, { signal: AbortSignal.timeout(PATIENCE_MS), cache: "no-store" });
  if (!answer.ok) throw new Error(`${name}: ${answer.status}`);
  return answer.json();
}

async function poll() {
  clearTimeout(timer);
  if (document.hidden) return; // asked again as soon as somebody looks
  try {
    const news = await get("live.json");
    if (about && about.life !== news.life) return location.reload(); // started again, or another run
    if (!about) {
      about = await get("about.json");
      showAbout();
    }
    live = news;
    failures = 0;
    lastAnswer = new Date();
    show();
  } catch (error) {
    failures += 1;
    showAway();
  }
  clearTimeout(timer);
  timer = setTimeout(poll, failures ? Math.min(LONGEST_PAUSE_MS, EVERY_MS * 2 ** (failures - 1)) : EVERY_MS);
}

document.addEventListener("visibilitychange", poll);

function showAbout() {
  document.title = `${about.algorithm} on ${about.env} – Shoal`;
  $("title").textContent = `${about.algorithm} on ${about.env}`;
  $("place").textContent = about.run_dir;
  $("config").textContent = about.config;
}

function show() {
  const { now, state } = live;
  showState(state === "over" ? `over: ${live.ended}` : state, state);
  $("banner").hidden = state !== "over";
  if (state === "over") showBanner(`The run is over: ${ENDINGS[live.ended] ?? live.ended}. ${summary()}`, state);
  const envSteps = now.env_steps ?? 0;
  const share = Math.min(1, envSteps / about.budget_env_steps);
  $("share").value = share;
  const left = now.env_steps_per_s && state === "training" ? `, ${clock((about.budget_env_steps - envSteps) / now.env_steps_per_s)} left` : "";
  $("budget").textContent = `${whole.format(envSteps)} of ${whole.format(about.budget_env_steps)} env steps (${Math.floor(100 * share)} %)${left}`;
  showTiles(now);
  $("verdict").hidden = !now.bottleneck;
  $("part").textContent = now.bottleneck ?? "";
  $("advice").textContent = now.advice ? `: ${now.advice}` : "";
  showWaiters(live.waiters);
  showActors(live.actors);
  showCharts(live.progress, live.evaluations);
}

function showState(text, state) {
  $("state").textContent = text;
  $("state").dataset.state = state;
}

function summary() {
  return `${about.run_dir}/summary.json has what came of it.`;
}

function showBanner(text, state) {
  $("banner").hidden = false;
  $("banner").dataset.state = state;
  $("banner").textContent = text;
}

function showAway() {
  if (failures < 2 || live?.state === "over") return; // one answer may get lost; what is over is over
  showState("not reachable", "away");
  const since = lastAnswer ? ` since ${lastAnswer.toLocaleTimeString("en-GB")}` : "";
  const meaning = live ? `: the run is over, or its process is being started again. This is the last it said. If it is over, ${summary()}` : ".";
  showBanner(`The learner has not answered${since}${meaning} It is asked again.`, "away");
}

function showTiles(now) {
  const evaluated = live.evaluation;
  const target = about.target_return === null ? "" : `target ${one.format(about.target_return)}`;
  const evaluatedAt = evaluated ? `at ${whole.format(evaluated.env_steps)}` : "";
  const tiles = [
    ["return", now.mean_return === undefined ? "–" : one.format(now.mean_return), now.episodes === undefined ? "" : `${whole.format(now.episodes)} episodes`],
    ["evaluation", evaluated ? one.format(evaluated.eval_return) : "–", target || evaluatedAt],
    ["env steps/s", now.env_steps_per_s === undefined ? "–" : whole.format(now.env_steps_per_s), ""],
    ["staleness", now.staleness === undefined ? "–" : one.format(now.staleness), "versions"],
    ["version", now.version === undefined ? "–" : whole.format(now.version), now.updates === undefined ? "" : `${whole.format(now.updates)} updates`],
    ["actors", whole.format(live.actors.filter((actor) => actor.state !== "lost").length), live.replaced ? `${live.replaced} replaced` : ""],
    ["elapsed", now.wall_s === undefined ? "–" : clock(now.wall_s), ""],
  ];
  const made = tiles.map(([name, value, more]) => {
    const tile = document.createElement("div");
    const small = element("small", more);
    const shown = element("dd", value);
    shown.append(small);
    tile.append(element("dt", name), shown);
    return tile;
  });
  $("tiles").replaceChildren(...made);
}

function showWaiters(waiters) {
  const long = waiters.filter((waiter) => waiter.waited_s >= 1);
  $("waits").hidden = long.length === 0;
  $("waiters").replaceChildren(
    ...long.map((waiter) => element("li", `${waiter.who} (${waiter.waited_s.toFixed(0)} s) waits for ${waiter.what}${waiter.reason ? `: ${waiter.reason}` : ""}`)),
  );
}

function showActors(actors) {
  const rows = actors.map((actor) => {
    const row = document.createElement("tr");
    const state = element("td", actor.state);
    state.classList.toggle("lost", actor.state === "lost");
    row.append(
      element("td", actor.slot), element("td", actor.host), element("td", actor.pid), state,
      element("td", actor.restarts), element("td", whole.format(actor.env_steps_per_s)), element("td", whole.format(actor.env_steps)),
      element("td", figure(actor.act_share, true)),
      element("td", actor.version < 0 ? "–" : whole.format(actor.version)),
      element("td", actor.silent_s === null ? "–" : `${one.format(actor.silent_s)} s`),
    );
    return row;
  });
  if (rows.length === 0) {
    const none = element("td", "none has joined");
    none.colSpan = 10;
    none.className = "none";
    const row = document.createElement("tr");
    row.append(none);
    rows.push(row);
  }
  $("actors").replaceChildren(...rows);
}

function showCharts(progress, evaluations) {
  const xs = progress.env_steps ?? [];
  const column = (name) => progress[name] ?? xs.map(() => null);
  const target = about.target_return === null ? [] : [{ label: "target", dashed: true }];
  const returns = joined(
    [xs, column("mean_return")],
    [evaluations.env_steps ?? [], evaluations.eval_return ?? []],
  );
  if (target.length) returns.push(returns[0].map(() => about.target_return));
  chart("charts", "Return", [{ label: "training" }, { label: "evaluation", dots: true }, ...target]).update(returns);
  chart("charts", "Env steps/s", [{}], { fromZero: true }).update([xs, column("env_steps_per_s")]);
  chart("charts", "Staleness in versions", [{}], { fromZero: true }).update([xs, column("staleness")]);
  chart("charts", "Time", [{ label: "learner waits" }, { label: "actors act" }], { percent: true }).update([
    xs, column("learner_wait_share"), column("actors_act_share"),
  ]);
  if (progress.table_fill) chart("charts", "Table fill", [{}], { percent: true }).update([xs, progress.table_fill]);
  const others = Object.keys(progress).filter((name) => !KNOWN.has(name));
  const losses = others.filter((name) => name.includes("loss"));
  losses.forEach((name) => chart("charts", words(name), [{}]).update([xs, progress[name]]));
  const rest = others.filter((name) => !name.includes("loss"));
  $("more").hidden = rest.length === 0;
  if ($("more").open) rest.forEach((name) => chart("more-charts", words(name), [{}]).update([xs, progress[name]]));
}

$("more").addEventListener("toggle", () => live && showCharts(live.progress, live.evaluations));

function chart(parent, title, series, options) {
  const key = `${parent} ${title}`;
  if (!charts.has(key)) charts.set(key, new Chart($(parent), title, series, options));
  return charts.get(key);
}

function words(name) {
  const text = name.replaceAll("_", " ");
  return text[0].toUpperCase() + text.slice(1);
}

function element(tag, text) {
  const made = document.createElement(tag);
  made.textContent = text;
  return made;
}

function clock(seconds) {
  const all = Math.max(0, Math.round(seconds));
  const pad = (value) => String(value).padStart(2, "0");
  const [hours, minutes] = [Math.floor(all / 3600), Math.floor(all / 60) % 60];
  return hours ? `${hours}:${pad(minutes)}:${pad(all % 60)}` : `${minutes}:${pad(all % 60)}`;
}

poll();
