// npm's ws as a client: makes every offer of compression and checks the echoes. Arguments: URL,
// "all" or "some".
const assert = require("node:assert");
const WebSocket = require("ws");

const [url, which] = process.argv.slice(2);
const SCRIPTS = ["plain words, ", "grüße und Straße, ", "привет всем, ", "你好，世界。", "मरहबा دنیا ", "🦀🐍🚀 "];
let state = 7692;
const below = (end) => ((state = (state * 1103515245 + 12345) % 2147483648), Math.floor((state / 2147483648) * end));
const noise = (size) => Buffer.from(Uint8Array.from({ length: size }, () => below(256)));

function* small() {
  for (const size of [0, 1, 5, 63, 64, 300, 1000, 5000]) {
    // Cut at code points: a lone surrogate would not be valid text.
    yield Array.from(SCRIPTS[below(SCRIPTS.length)].repeat(size)).slice(0, size).join("");
    yield noise(size);
    yield Buffer.from(Uint8Array.from({ length: size }, () => 97 + below(3)));
  }
  yield '{"type":"chat","text":"the same again"}'.repeat(3);
  yield '{"type":"chat","text":"the same again"}'.repeat(3);
}

function* large() {
  for (const size of [65535, 65536, 1 << 20, 4 << 20]) {
    yield noise(size);
    yield Buffer.concat(Array(64).fill(noise(Math.floor(size / 64))));
    yield SCRIPTS.join("").repeat(Math.floor(size / 150));
  }
}

function check(messages, offer) {
  return new Promise((resolve, reject) => {
    const socket = new WebSocket(url, { perMessageDeflate: { threshold: 0, ...offer }, maxPayload: 8 << 20 });
    let expected;
    let number = 0;
    const next = () => {
      const { value, done } = messages.next();
      if (done) return socket.close();
      expected = value;
      number += 1;
      const length = Buffer.byteLength(value);
      if (number % 4 === 0 && Buffer.isBuffer(value) && length > 2) {
        // Three fragments, one of them empty.
        const cut = below(length);
        socket.send(value.subarray(0, cut), { fin: false });
        socket.send(Buffer.alloc(0), { fin: false });
        socket.send(value.subarray(cut), { fin: true });
      } else {
        socket.send(value, { compress: number % 5 !== 0 });
      }
      if (number % 7 === 0) socket.ping();
    };
    socket.on("open", () => {
      if (!socket.extensions.includes("permessage-deflate")) reject(new Error(`declined: ${JSON.stringify(offer)}`));
      next();
    });
    socket.on("message", (data, isBinary) => {
      try {
        assert.strictEqual(isBinary, Buffer.isBuffer(expected));
        assert.ok(data.equals(Buffer.from(expected)), `${JSON.stringify(offer)}, message ${number}`);
        next();
      } catch (error) {
        reject(error);
      }
    });
    socket.on("close", (code) => (code === 1005 ? resolve() : reject(new Error(`closed with ${code}`))));
    socket.on("error", reject);
  });
}

async function main() {
  const some = which !== "all";
  const serverBits = some ? [undefined, 8, 12] : [undefined, 8, 9, 10, 11, 12, 13, 14, 15];
  // For raw streams Node's zlib compresses with 9 bits instead of 8, so a client must not offer 8.
  const clientBits = some ? [true, 9] : [true, 9, 10, 11, 12, 13, 14, 15];
  let connections = 0;
  for (const serverNoContextTakeover of [false, true])
    for (const clientNoContextTakeover of [false, true])
      for (const serverMaxWindowBits of serverBits)
        for (const clientMaxWindowBits of clientBits) {
          // ws rejects a response that has a parameter set to `false` here, so such options are left out.
          const offer = { clientMaxWindowBits };
          if (serverNoContextTakeover) offer.serverNoContextTakeover = true;
          if (clientNoContextTakeover) offer.clientNoContextTakeover = true;
          if (serverMaxWindowBits) offer.serverMaxWindowBits = serverMaxWindowBits;
          await check(small(), offer);
          connections += 1;
        }
  await check(large(), { clientMaxWindowBits: true });
  await check(large(), { serverMaxWindowBits: 9, clientMaxWindowBits: 9 });
  console.log(connections + 2);
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
