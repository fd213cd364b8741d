// node perfetto.cjs FOLDER TRACE SQL...: load a trace into Perfetto's trace processor and ask it.
//
// FOLDER holds engine_bundle.js and trace_processor.wasm of Perfetto's UI. A line of JSON is written
// per query: an array of rows, or {"error": ...} for what is refused.
"use strict";
const fs = require("fs"), path = require("path"), vm = require("vm");
const [folder, trace, ...queries] = process.argv.slice(2);

// Protocol buffers, as far as protos/perfetto/trace_processor/trace_processor.proto needs them:
// TraceProcessorRpcStream.msg = 1, TraceProcessorRpc {seq = 1, request = 2, query_args = 103,
// append_trace_data = 101, append_result = 201, query_result = 203, finalize_data_result = 204}.
const APPEND = 1, FINALIZE = 2, QUERY = 3, CHUNK = 1 << 20;
function varint(value) {
  const out = [];
  for (let n = BigInt(value); ; n >>= 7n) {
    if (n < 128n) { out.push(Number(n)); return Buffer.from(out); }
    out.push(Number(n & 127n) | 128);
  }
}
const number = (id, value) => Buffer.concat([varint(id << 3), varint(value)]);
function bytesOf(id, value) {
  const body = Buffer.from(value);
  return Buffer.concat([varint((id << 3) | 2), varint(body.length), body]);
}
function* fields(data) {
  let at = 0;
  const read = () => {
    let value = 0n;
    for (let shift = 0n; ; shift += 7n) {
      const byte = data[at++];
      value |= BigInt(byte & 127) << shift;
      if (byte < 128) return value;
    }
  };
  while (at < data.length) {
    const key = Number(read()), id = key >>> 3, kind = key & 7;
    if (kind === 0) yield [id, read()];
    else if (kind === 1) { yield [id, data.subarray(at, at + 8)]; at += 8; }
    else if (kind === 5) { yield [id, data.subarray(at, at + 4)]; at += 4; }
    else if (kind === 2) { const n = Number(read()); yield [id, data.subarray(at, at + n)]; at += n; }
    else throw new Error(`wire type ${kind}`);
  }
}
function packedVarints(data) {
  const found = [];
  let value = 0n, shift = 0n;
  for (const byte of data) {
    value |= BigInt(byte & 127) << shift; shift += 7n;
    if (byte < 128) { found.push(BigInt.asIntN(64, value)); value = 0n; shift = 0n; }
  }
  return found;
}

// The worker, which is made to believe that it is one.
class XMLHttpRequest {
  open(method, url) { this.url = url; }
  send() {
    const data = fs.readFileSync(path.join(folder, path.basename(this.url)));
    this.response = data.buffer.slice(data.byteOffset, data.byteOffset + data.length);
  }
}
const port = { onmessage: null, postMessage: (data) => replies.push(Buffer.from(data)) };
const replies = [];
const self = { location: { href: "http://localhost/engine_bundle.js" } };
const inside = vm.createContext({
  self, XMLHttpRequest, WorkerGlobalScope: function () {}, importScripts() {}, location: self.location,
  WebAssembly, TextDecoder, TextEncoder, performance, setTimeout, clearTimeout, URL, Promise,
  Uint8Array, TypeError, Error, console: { log() {}, warn() {}, error: console.error }, crypto: globalThis.crypto,
});
vm.runInContext(fs.readFileSync(path.join(folder, "engine_bundle.js"), "utf8"), inside);

let seq = 0;
function call(method, args = Buffer.alloc(0)) {
  replies.length = 0;
  const rpc = Buffer.concat([number(1, ++seq), number(2, method), args]);
  port.onmessage({ data: new Uint8Array(bytesOf(1, rpc)) });
  return [...fields(Buffer.concat(replies))].flatMap(([, reply]) => [...fields(reply)]);
}
function errorsOf(reply, result, field) {
  return reply
    .filter(([id]) => id === result)
    .flatMap(([, body]) => [...fields(body)].filter(([id]) => id === field).map(([, text]) => text.toString()));
}
function main() {
  self.onmessage({ data: port });
  const data = fs.readFileSync(trace), errors = [];
  for (let at = 0; at < data.length; at += CHUNK)
    errors.push(...errorsOf(call(APPEND, bytesOf(101, data.subarray(at, at + CHUNK))), 201, 2));
  errors.push(...errorsOf(call(FINALIZE), 204, 1));
  if (errors.length) console.log(JSON.stringify({ error: errors.join("; ") }));
  else for (const sql of queries) console.log(JSON.stringify(rowsOf(call(QUERY, bytesOf(103, bytesOf(1, sql))))));
}

// QueryResult {column_names = 1, error = 2, batch = 3}
function rowsOf(reply) {
  const names = [], values = [];
  let error = null;
  for (const [id, result] of reply) {
    if (id !== 203) continue;
    for (const [field, body] of fields(result)) {
      if (field === 1) names.push(body.toString());
      else if (field === 2) error = body.toString();
      else if (field === 3) values.push(...cellsOf(body));
    }
  }
  if (error) return { error };
  const rows = [];
  for (let at = 0; at < values.length; at += names.length)
    rows.push(Object.fromEntries(names.map((name, n) => [name, values[at + n]])));
  return rows;
}
// CellsBatch {cells = 1, varint_cells = 2, float64_cells = 3, string_cells = 5}, packed; a cell is
// 1 null, 2 varint, 3 float64, 4 string.
function cellsOf(batch) {
  let kinds = [], ints = [], texts = [];
  const doubles = [];
  for (const [field, body] of fields(batch)) {
    if (field === 1) kinds = [...body];
    else if (field === 2) ints = packedVarints(body).map(Number);
    else if (field === 3) for (let at = 0; at < body.length; at += 8) doubles.push(body.readDoubleLE(at));
    else if (field === 5) texts = body.toString().split("\0");
  }
  const read = { 1: () => null, 2: () => ints.shift(), 3: () => doubles.shift(), 4: () => texts.shift() };
  return kinds.map((kind) => read[kind]());
}

// The worker has begun, synchronously; what it promised is kept before this.
setImmediate(main);
