// Blinded reading: ratings of the pair that is on the screen, kept in this browser for each reader. The page holds no key.

const rows = [...document.querySelectorAll("[data-criterion]")];
const study = { reader: "", ratings: {}, row: 0, kept: true };  // ratings: reading (from 0) → criterion → score

function storage(name, text) {  // reads, or writes where there is a text; a sandboxed page has no storage
  const key = `ldct-denoise blinded reading ${document.body.dataset.session} ${name}`;
  try {
    if (text === undefined) return localStorage.getItem(key);
    localStorage.setItem(key, text);
  } catch { study.kept = false; }
  return null;
}

const complete = (number) => rows.every((row) => study.ratings[number]?.[row.dataset.criterion] !== undefined);

function showRatings() {
  const given = study.ratings[view.slide] ?? {};
  rows.forEach((row, number) => {
    row.classList.toggle("marked", number === study.row);
    row.querySelectorAll("input").forEach((input) => { input.checked = Number(input.value) === given[row.dataset.criterion]; });
  });
  const done = slides.filter((_, number) => complete(number)).length;
  find("rating-state").textContent = `${done} of ${slides.length} complete`;
  find("kept").textContent = study.kept
    ? `Reader ${study.reader}. The ratings stay in this browser until they are exported; you can close the page and go on later.`
    : `Reader ${study.reader}. This browser keeps nothing: export the ratings before you close the page.`;
}

function rate(score) {
  if (find("rating").disabled) return;  // the pair on the screen is not yet the one asked for
  (study.ratings[view.slide] ??= {})[rows[study.row].dataset.criterion] = score;
  storage(study.reader, JSON.stringify(study.ratings));
  study.row = Math.min(study.row + 1, rows.length - 1);
  showRatings();
}

function turnTo(number) {
  const before = view.slide;
  goto(number);
  if (view.slide !== before) study.row = 0;
  showRatings();
}

function nextIncomplete() {
  const order = slides.map((_, number) => (view.slide + 1 + number) % slides.length);
  const found = order.find((number) => !complete(number));
  if (found !== undefined) turnTo(found);
}

function nextWindow() {
  const preset = find("preset"), count = preset.options.length - 1;  // the last is "free"
  preset.selectedIndex = (Math.max(preset.selectedIndex, 0) + 1) % count;
  usePreset();
}

function pressed(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || find("reading").hidden) return;
  if (event.target.matches("input:not([type=radio]), select")) return;
  const mark = (number) => { study.row = Math.max(0, Math.min(rows.length - 1, number)); showRatings(); };
  const scores = rows[0].querySelectorAll("input"), score = scores[Number(event.key) - 1];
  const keys = {
    ArrowLeft: () => turnTo(view.slide - 1), ArrowRight: () => turnTo(view.slide + 1),
    ArrowUp: () => mark(study.row - 1), ArrowDown: () => mark(study.row + 1),
    n: nextIncomplete, N: nextIncomplete, w: nextWindow, W: nextWindow,
  };
  const act = score ? () => rate(Number(score.value)) : keys[event.key];
  if (!act) return;
  event.preventDefault();
  event.stopPropagation();  // digits are windows in other viewers
  act();
}

function exportRatings() {
  const names = rows.map((row) => row.dataset.criterion), quoted = (text) => `"${text.replaceAll('"', '""')}"`;
  const lines = Object.entries(study.ratings).map(([number, given]) =>
    [document.body.dataset.session, quoted(study.reader), Number(number) + 1, ...names.map((name) => given[name] ?? "")].join(","));
  const text = `${["session", "reader", "reading", ...names].join(",")}\n${lines.join("\n")}\n`, link = document.createElement("a");
  link.setAttribute("href", URL.createObjectURL(new Blob([text], { type: "text/csv" })));
  link.download = `ratings-${document.body.dataset.session}-${study.reader.replace(/\W+/g, "_")}.csv`;
  link.click();
  const open = slides.length - slides.filter((_, number) => complete(number)).length;
  if (open) find("rating-state").textContent += `; exported with ${open} incomplete`;
}

find("start").addEventListener("submit", (event) => {
  event.preventDefault();
  study.reader = find("reader").value.trim();
  if (!study.reader) return;
  storage("", study.reader);
  study.ratings = JSON.parse(storage(study.reader) ?? "{}");
  find("start").hidden = true;
  document.querySelector("header").hidden = true;  // room for the images
  find("reading").hidden = false;
  view.slide = slides.length - 1;  // so that the next incomplete is the first one
  nextIncomplete();
  showRatings();
  draw();
});
find("reader").value = storage("") ?? "";
// Images fill the height above the ratings, also the tallest.
const aspects = slides.map((slide) => slide.columns * slide.spacing_mm[1] / (slide.rows * slide.spacing_mm[0]));
find("panels").style.setProperty("--aspect", Math.min(...aspects));
rows.forEach((row, number) => row.querySelectorAll("input").forEach((input) => input.addEventListener("change", () => {
  study.row = number;
  rate(Number(input.value));
})));
find("slice").addEventListener("input", () => { study.row = 0; showRatings(); });
find("panels").addEventListener("wheel", (event) => { if (!event.ctrlKey) { study.row = 0; showRatings(); } });
find("previous").addEventListener("click", () => turnTo(view.slide - 1));
find("next").addEventListener("click", () => turnTo(view.slide + 1));
find("export").addEventListener("click", exportRatings);
document.addEventListener("keydown", pressed, { capture: true });
