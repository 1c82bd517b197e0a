"use strict";
// Bars, words and the heat map. Texts go in as text, never as HTML.
function element(name, text, className) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  return made;
}

function percent(share, language) {
  return new Intl.NumberFormat(language, { style: "percent", maximumFractionDigits: 1 }).format(share);
}

function label(candidate) {
  return candidate.category_name ? `${candidate.category_id} · ${candidate.category_name}` : String(candidate.category_id);
}

function drawBars(list, candidates, language) {
  list.replaceChildren(...candidates.map((candidate) => {
    const row = element("li");
    const text = element("div", undefined, "bar-label");
    text.append(element("span", label(candidate)), element("strong", percent(candidate.confidence, language)));
    const bar = element("div", undefined, "bar");
    const filled = element("span");
    filled.style.width = `${Math.max(0.5, candidate.confidence * 100)}%`;
    bar.append(filled);
    row.append(text, bar);
    return row;
  }));
}

function drawMembers(list, modalities, members, words, language) {
  list.replaceChildren(...modalities.flatMap((modality) => {
    const asked = Object.entries(members).filter(([, said]) => said.modality === modality);
    const share = asked.reduce((sum, [, said]) => sum + said.share, 0);
    return [
      element("dt", `${words[modality]} ${percent(share, language)}`),
      ...asked.map(([name, said]) => drawMember(name, said, words, language)),
    ];
  }));
}

function drawMember(name, said, words, language) {
  const row = element("dd");
  row.append(
    element("strong", words.member[name] || name),
    `${words.colon}${label(said)} (${percent(said.confidence, language)}), ${words.share} ${percent(said.share, language)}`,
  );
  return row;
}

function drawWords(list, found, words) {
  const most = Math.max(...found.map((word) => word.weight), 0.001);
  const items = found.map((word) => {
    const item = element("li", word.word);
    item.style.backgroundColor = `rgba(191, 0, 0, ${(0.35 * word.weight) / most})`;
    return item;
  });
  list.replaceChildren(...(items.length ? items : [element("li", words.no_words)]));
}

function drawHeat(canvas, photo, heat) {
  const scale = Math.min(1, 480 / photo.naturalWidth);
  canvas.width = Math.max(1, Math.round(photo.naturalWidth * scale));
  canvas.height = Math.max(1, Math.round(photo.naturalHeight * scale));
  const paper = canvas.getContext("2d");
  paper.drawImage(photo, 0, 0, canvas.width, canvas.height);
  const small = document.createElement("canvas");
  small.width = heat.rows[0].length;
  small.height = heat.rows.length;
  const dots = new ImageData(small.width, small.height);
  heat.rows.flat().forEach((value, i) => dots.data.set([255, Math.round(200 * (1 - value)), 0, Math.round(190 * value)], 4 * i));
  small.getContext("2d").putImageData(dots, 0, 0);
  const [left, upper, right, lower] = heat.square;
  paper.imageSmoothingQuality = "high";
  paper.drawImage(small, left * canvas.width, upper * canvas.height,
    (right - left) * canvas.width, (lower - upper) * canvas.height);
}
