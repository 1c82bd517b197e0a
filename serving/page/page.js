"use strict";
const $ = (id) => document.getElementById(id);
let language = localStorage.getItem("language") || (navigator.language.startsWith("fr") ? "fr" : "en");
let photo = null; // data URI
let answer = null;
let refusal = null; // () => text, in the present language
let thanked = false;

function speak(chosen) {
  language = chosen;
  localStorage.setItem("language", chosen);
  document.documentElement.lang = chosen;
  document.title = WORDS[chosen].title;
  for (const part of document.querySelectorAll("[data-text]")) part.textContent = WORDS[chosen][part.dataset.text];
  for (const button of document.querySelectorAll("[data-language]")) {
    button.setAttribute("aria-pressed", String(button.dataset.language === chosen));
  }
  $("preview").alt = WORDS[chosen].alt;
  $("heat").setAttribute("aria-label", WORDS[chosen].chart);
  if (answer) show();
  if (refusal) $("error").textContent = refusal();
  thank(thanked);
}

function thank(yes) {
  thanked = yes;
  $("thanks").textContent = yes ? WORDS[language].thanks : "";
}

function take(file) {
  if (!file) return;
  const reader = new FileReader();
  reader.onload = () => {
    photo = reader.result;
    $("preview").src = photo;
    $("chosen").hidden = false;
    forgive();
  };
  reader.readAsDataURL(file);
}

function drop() {
  photo = null;
  $("photo").value = "";
  $("preview").removeAttribute("src");
  $("chosen").hidden = true;
}

async function call(path, body) {
  const headers = { "Content-Type": "application/json" };
  const key = sessionStorage.getItem("key");
  if (key) headers["X-API-Key"] = key;
  // the password of the documentation is not sent along: refused here, the browser would forget it
  const credentials = "omit";
  return fetch(path, { method: body ? "POST" : "GET", headers, credentials, body: body && JSON.stringify(body) });
}

function refuse(text) {
  refusal = text;
  $("error").textContent = text();
  $("error").hidden = false;
}

function forgive() {
  refusal = null;
  $("error").hidden = true;
}

function askForKey() {
  $("key-box").hidden = false;
  $("key").focus();
}

async function explainRefusal(response) {
  const body = await response.json().catch(() => ({}));
  const fault = Array.isArray(body.detail) ? body.detail[0] : { msg: body.detail || response.statusText };
  if (response.status === 401) askForKey();
  refuse(() => {
    const words = WORDS[language];
    return words[fault.type] || words[response.status] || `${words.other} (${response.status}): ${fault.msg}`;
  });
}

function show() {
  const words = WORDS[language];
  $("best").textContent = `${label(answer)} — ${words.sure} ${percent(answer.confidence, language)}`;
  $("abstained").hidden = !answer.abstained;
  drawBars($("bars"), answer.top_k, language);
  drawMembers($("members"), answer.modalities, answer.members, words, language);
  const why = answer.explanation;
  $("words-box").hidden = !answer.modalities.includes("text");
  drawWords($("words"), why.words, words);
  $("skipped").hidden = !answer.skipped;
  const drawable = why.heat_map && answer.photo;
  $("heat-box").hidden = !drawable;
  if (drawable) drawHeat($("heat"), answer.photo, why.heat_map);
  $("version").textContent = `${words.version} ${answer.model}, version ${answer.model_version}`;
  $("answer").hidden = false;
}

async function decoded(uri) {
  const image = new Image();
  image.src = uri;
  await image.decode();
  return image;
}

async function ask(event) {
  event.preventDefault();
  if (/[^\x20-\x7e]/.test($("key").value)) { // no header can carry it, so no server has it
    refuse(() => WORDS[language][401]);
    askForKey();
    return;
  }
  if ($("key").value) sessionStorage.setItem("key", $("key").value);
  const body = { top_k: 5, explain: true };
  for (const name of ["designation", "description"]) if ($(name).value.trim()) body[name] = $(name).value;
  if (photo) body.image = photo;
  forgive();
  $("answer").hidden = true;
  $("ask").disabled = true;
  $("busy").textContent = WORDS[language].busy;
  try {
    const response = await call("/predict", body);
    $("key-box").hidden = response.status !== 401;
    if (!response.ok) {
      await explainRefusal(response);
      return;
    }
    answer = await response.json();
    answer.skipped = Boolean(body.image) && !answer.modalities.includes("photo");
    // null where the browser cannot decode it: of a photo that was skipped the server has checked no pixel
    answer.photo = body.image && await decoded(body.image).catch(() => null);
    thank(false);
    show();
    $("answer").focus();
    await offerLabels();
  } catch (error) {
    refuse(() => WORDS[language].offline);
  } finally {
    $("ask").disabled = false;
    $("busy").textContent = "";
  }
}

async function inform() {
  const response = await call("/info").catch(() => null);
  if (!response || !response.ok) return {}; // at the start the key may still be missing
  const info = await response.json();
  $("warning-detail").textContent = info.warning;
  $("warning").hidden = !info.warning;
  return info;
}

async function offerLabels() {
  const { labels } = await inform();
  if (!labels) return;
  $("true-code").replaceChildren(...Object.entries(labels).map(([code, name]) => {
    const option = element("option", name ? `${code} · ${name}` : code);
    option.value = code;
    return option;
  }));
  $("true-code").value = answer.predicted_category;
}

async function correct(event) {
  event.preventDefault();
  const told = { request_id: answer.request_id, true_code: Number($("true-code").value) };
  const response = await call("/feedback", told).catch(() => null);
  if (response && response.ok) thank(true);
  else if (response) await explainRefusal(response);
  else refuse(() => WORDS[language].offline);
}

$("product").addEventListener("submit", ask);
$("correct").addEventListener("submit", correct);
$("photo").addEventListener("change", () => take($("photo").files[0]));
$("remove").addEventListener("click", drop);
$("preview").addEventListener("error", () => {
  if (!photo) return; // the source was taken away
  drop();
  refuse(() => WORDS[language].photo_format);
});
for (const button of document.querySelectorAll("[data-language]")) {
  button.addEventListener("click", () => speak(button.dataset.language));
}
for (const name of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(name, (event) => {
    event.preventDefault();
    $("drop").classList.toggle("over", name === "dragover");
    if (name === "drop") take(event.dataTransfer.files[0]);
  });
}
document.addEventListener("paste", (event) => take([...event.clipboardData.files].find((file) => file.type.startsWith("image/"))));
speak(language);
inform();
