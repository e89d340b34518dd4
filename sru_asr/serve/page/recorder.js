// Hands on what the microphone records as raw samples: signed 16 bits, one channel, 40 ms at a time, as windows end with
// frames of 40. At other rates than 16 kHz the first time 55: the server's resampler holds 6 to 12 back. Told to stop, it
// hands on what there is, as the last.
class Recorder extends AudioWorkletProcessor {
  constructor() {
    super();
    this.piece = new Int16Array(Math.round(sampleRate * (sampleRate === 16000 ? 0.04 : 0.055)));
    this.filled = 0;
    this.peak = 0;
    this.done = false;
    this.port.onmessage = () => {
      if (!this.done) this.handOn((this.done = true));
    };
  }

  process(inputs) {
    if (this.done) return false;
    for (const sample of inputs[0][0] ?? []) {
      this.peak = Math.max(this.peak, Math.abs(sample));
      this.piece[this.filled++] = Math.max(-32768, Math.min(32767, Math.round(sample * 32768)));
      if (this.filled === this.piece.length) this.handOn(false);
    }
    return true;
  }

  handOn(last) {
    this.port.postMessage({ samples: this.piece.slice(0, this.filled).buffer, peak: this.peak, last });
    this.piece = new Int16Array(Math.round(sampleRate * 0.04));
    this.filled = this.peak = 0;
  }
}

registerProcessor("recorder", Recorder);
