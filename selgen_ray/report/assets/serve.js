// The panel of a served report: the trials as they are now, and with the token buttons to stop, retry and add.

const byId = (id) => document.getElementById(id);
const RETRIED = ["failed", "diverged", "stopped", "removed", "unreadable"];
const STOPPED = ["waiting", "running", "cut off", "failed"];
let original = null;

/** The token of the address, which is then taken out of it; a reload of the page finds it in the tab's memory. */
function readToken() {
  const match = location.hash.match(/token=([\w-]+)/);
  if (match) {
    history.replaceState(null, "", "/");
    sessionStorage.setItem("selgen-token", match[1]);
  }
  return sessionStorage.getItem("selgen-token") || "";
}

const token = readToken();

function say(text, wrong) {
  byId("said").textContent = text;
  byId("said").className = wrong ? "wrong" : "";
}

async function ask(request) {
  say("asking …", false);
  for (const button of document.querySelectorAll("button")) button.disabled = true;
  let done = false;
  try {
    const answer = await fetch("/ask", {
      method: "POST",
      headers: { "Content-Type": "application/json", "X-Selgen-Token": token },
      body: JSON.stringify(request),
    });
    done = answer.ok;
    say((await answer.json()).said, !done);
  } catch {
    say("no answer: is the command in the terminal still running?", true);
  }
  for (const button of document.querySelectorAll("button")) button.disabled = false;
  await look();
  return done;
}

function button(text, act) {
  const made = document.createElement("button");
  made.type = "button";
  made.textContent = text;
  made.addEventListener("click", act);
  return made;
}

function buttons(trial) {
  const made = [];
  if (STOPPED.includes(trial.status)) made.push(button("stop", () => ask({ do: "stop", trial: trial.id })));
  if (RETRIED.includes(trial.status)) made.push(button("retry", () => ask({ do: "retry", trial: trial.id })));
  made.push(button("add like it", () => begin(trial)));
  return made;
}

function begin(trial) {
  original = trial.id;
  byId("of").textContent = trial.name;
  byId("add").hidden = false;
  byId("changes").focus();
}

function row(trial) {
  const made = document.createElement("tr");
  made.dataset.trial = trial.id;
  for (const text of [trial.name, trial.status, trial.at, trial.asked]) {
    made.append(document.createElement("td"));
    made.lastChild.textContent = text;
  }
  const place = document.createElement("td");
  if (token) place.append(...buttons(trial));
  made.append(place);
  return made;
}

function show(state) {
  const counts = {};
  for (const trial of state.trials) counts[trial.status] = (counts[trial.status] || 0) + 1;
  const texts = Object.entries(counts).map(([status, n]) => `${n} ${status}`);
  byId("title").textContent = document.title = state.title;
  byId("counts").textContent = texts.join(", ");
  byId("trials").replaceChildren(...state.trials.map(row));
  if (state.problem) say(state.problem, true);
}

let seen = "";
let lost = false;

async function look() {
  try {
    // `no-cache` asks with the ETag of what is here; the answer is empty where nothing has changed
    const answer = await fetch("/state", { cache: "no-cache" });
    const mark = answer.headers.get("ETag");
    const state = await answer.json();
    if (mark !== seen && state.trials) show(state);
    if (lost) say("", false);
    seen = mark;
    lost = false;
  } catch {
    lost = true;
    say("no answer: is the command in the terminal still running?", true);
  }
}

byId("read-only").hidden = Boolean(token);
byId("report").src = `http://localhost:${location.port}/report/index.html`;
byId("cancel").addEventListener("click", () => {
  byId("add").hidden = true;
});
byId("add").addEventListener("submit", async (event) => {
  event.preventDefault();
  const words = byId("seeds").value.split(/[\s,]+/).filter(Boolean);
  const changes = byId("changes").value.split("\n").map((line) => line.trim());
  const request = { do: "add", trial: original, changes: changes.filter(Boolean), warm: byId("warm").checked };
  if (await ask({ ...request, seeds: words.map(Number) })) byId("add").hidden = true;
});
look();
setInterval(() => {
  if (!document.hidden) look();
}, 2000);
