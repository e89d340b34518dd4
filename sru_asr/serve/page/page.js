// Speak into the microphone, or hand in a file, and read along. The protocol is in docs/serving.md.
const $ = (id) => document.getElementById(id);
const key = () => $("key").value || undefined;
let session = null; // the live one
let spans = []; // the words of a file, to follow its player
let turn = 0; // of what is shown: a file that was handed in before something else is not
let following = 0; // the animation frame asked for

function say(message, error = false) {
  $("status").textContent = message;
  $("status").classList.toggle("error", error);
  if (error && /key\b/i.test(message)) $("key-field").hidden = false;
}

function clock(seconds) {
  const minutes = Math.floor(seconds / 60);
  return `${minutes}:${String(Math.floor(seconds % 60)).padStart(2, "0")}`;
}

// A line of words, one element each.
function line(words, partial) {
  const paragraph = document.createElement("p");
  paragraph.classList.toggle("partial", partial);
  const time = document.createElement("time");
  time.textContent = clock(words[0].start);
  const text = document.createElement("span");
  for (const word of words) {
    const span = document.createElement("span");
    span.textContent = word.text;
    span.dataset.start = word.start;
    span.dataset.end = word.end;
    text.append(span, " ");
  }
  paragraph.append(time, text);
  return paragraph;
}

function clear() {
  turn += 1;
  $("text").replaceChildren();
  $("player").hidden = true;
  $("player").pause();
  spans = [];
}

// Live

// At the recogniser's rate: browsers resample at once, the server holds back 6 ms for it. Some of them refuse to.
function sourceOf(stream) {
  for (const options of [{ sampleRate: 16000 }, {}]) {
    const context = new AudioContext(options);
    try {
      return context.createMediaStreamSource(stream);
    } catch (error) {
      context.close();
      if (!options.sampleRate) throw error;
    }
  }
}

// Null if something else is to be shown by the time that the microphone may be used.
async function listen() {
  const mine = turn;
  if (!navigator.mediaDevices) throw new Error("this page may use the microphone on localhost or by https only");
  const stream = await navigator.mediaDevices.getUserMedia({ audio: { channelCount: 1 } });
  const opened = { stream, source: null, context: null, recorder: null, socket: null, turn: mine };
  try {
    opened.source = sourceOf(stream);
    const context = (opened.context = opened.source.context);
    await context.audioWorklet.addModule("recorder.js");
    if (turn !== mine) {
      end(opened);
      return null;
    }
    const address = new URL("v1/stream", location.href);
    address.protocol = address.protocol.replace("http", "ws");
    const socket = (opened.socket = new WebSocket(address));
    const start = { type: "start", sample_rate: context.sampleRate, latency_ms: +$("latency").value, api_key: key() };
    socket.onopen = () => socket.send(JSON.stringify(start));
    socket.onmessage = ({ data }) => heard(opened, JSON.parse(data));
    socket.onclose = () => {
      if (!opened.ended && turn === opened.turn) say("the connection was lost", true);
      end(opened);
    };
  } catch (error) {
    end(opened);
    throw error;
  }
  return opened;
}

function heard(opened, message) {
  if (message.type === "error" || message.type === "end") opened.ended = true;
  if (turn !== opened.turn) return; // something else is shown
  const last = $("text").lastElementChild;
  if (last?.classList.contains("partial")) last.remove();
  if (message.type === "ready") {
    const recorder = new AudioWorkletNode(opened.context, "recorder", { channelCount: 1, channelCountMode: "explicit" });
    recorder.port.onmessage = ({ data }) => {
      if (session === opened) $("level").value = Math.sqrt(data.peak);
      if (opened.socket.readyState !== WebSocket.OPEN) return;
      if (data.samples.byteLength) opened.socket.send(data.samples);
      if (data.last) opened.socket.send(JSON.stringify({ type: "end" }));
    };
    opened.recorder = recorder;
    opened.source.connect(recorder);
    for (const track of opened.stream.getTracks()) track.onended = () => stop(opened); // somebody pulled it out
    say("listening");
  } else if (message.type === "error") {
    say(message.message, true);
  } else if (message.type === "end") {
    say(`${message.seconds.toFixed(1)} s`);
  } else if (message.words.length) {
    $("text").append(line(message.words, message.type === "partial"));
    $("text").lastElementChild.scrollIntoView({ block: "nearest" });
  }
}

function stop(opened) {
  if (opened.stopping) return;
  opened.stopping = true;
  if (opened.socket?.readyState !== WebSocket.OPEN) end(opened);
  else if (opened.recorder && opened.context.state === "running") opened.recorder.port.postMessage("stop"); // the rest first
  else opened.socket.send(JSON.stringify({ type: "end" }));
}

function end(opened) {
  for (const track of opened.stream.getTracks()) track.stop();
  if (opened.context && opened.context.state !== "closed") opened.context.close();
  if (opened.socket?.readyState < WebSocket.CLOSING) opened.socket.close();
  if (!session || session === opened) idle(); // else somebody speaks anew
}

function idle() {
  session = null;
  $("speak").textContent = "Speak";
  $("speak").setAttribute("aria-pressed", "false");
  $("level").value = 0;
}

$("speak").onclick = async () => {
  if (session) return stop(session);
  clear();
  say("");
  $("speak").disabled = true;
  try {
    session = await listen();
    if (session) {
      $("speak").textContent = "Stop";
      $("speak").setAttribute("aria-pressed", "true");
    }
  } catch (error) {
    say(error.message, true);
  }
  $("speak").disabled = false;
};

// Files

async function recognise(file) {
  if (session) {
    stop(session);
    idle();
  }
  clear();
  const mine = turn;
  say(`${file.name} …`);
  const form = new FormData();
  form.append("file", file);
  form.append("response_format", "verbose_json");
  const headers = key() ? { Authorization: `Bearer ${key()}` } : {};
  try {
    const response = await fetch("v1/audio/transcriptions", { method: "POST", body: form, headers });
    const found = await response.json();
    if (turn !== mine) return;
    if (!response.ok) throw new Error(found.error.message);
    say(`${file.name}: ${found.duration.toFixed(1)} s${found.words.length ? "" : ", no words"}`);
    show(found.words.map((word) => ({ text: word.word, ...word })), found.segments);
    if ($("player").src) URL.revokeObjectURL($("player").src);
    $("player").src = URL.createObjectURL(file);
    $("player").hidden = false;
  } catch (error) {
    if (turn === mine) say(error.message, true);
  }
}

// A line for each segment, which ends where somebody paused.
function show(words, segments) {
  for (const { start, end } of segments)
    $("text").append(line(words.filter((word) => start <= word.start && word.end <= end), false));
  spans = [...$("text").querySelectorAll("span[data-start]")];
}

function follow() {
  const now = $("player").currentTime;
  for (const span of spans) span.classList.toggle("now", span.dataset.start <= now && now < span.dataset.end);
  cancelAnimationFrame(following);
  if (!$("player").paused) following = requestAnimationFrame(follow);
}

$("player").onplay = $("player").onseeked = follow;
$("text").onclick = ({ target }) => {
  if (!spans.includes(target)) return;
  $("player").currentTime = target.dataset.start;
  $("player").play();
};
$("file").onchange = () => {
  if ($("file").files.length) recognise($("file").files[0]);
  $("file").value = "";
};
addEventListener("dragover", (event) => {
  event.preventDefault();
  $("drop").classList.add("over");
});
addEventListener("dragleave", () => $("drop").classList.remove("over"));
addEventListener("drop", (event) => {
  event.preventDefault();
  $("drop").classList.remove("over");
  if (event.dataTransfer.files.length) recognise(event.dataTransfer.files[0]);
});
$("options").onsubmit = (event) => event.preventDefault();

fetch("health").then(async (response) => ($("model").textContent = (await response.json()).model));
