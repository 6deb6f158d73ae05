// A client that knows no more than reflection: lists the services, asks for health, runs a container.
// node client.js SOCKET ID BUNDLE [SHIM_PROTO INCLUDE...]; prints one JSON object. With SHIM_PROTO the
// shim's messages come from that file instead, as a client that was compiled beforehand has them.
const path = require("node:path");
const grpc = require("@grpc/grpc-js");
const loader = require("@grpc/proto-loader");

const OPTIONS = { keepCase: true, longs: String, enums: String, defaults: true };
const [socket, id, bundle, proto, ...includeDirs] = process.argv.slice(2);
const address = `unix:${socket}`;
const credentials = grpc.credentials.createInsecure();

function reflect(request) {
  const { grpc: { reflection } } = grpc.loadPackageDefinition(
    loader.loadSync(path.join(__dirname, "reflection.proto"), OPTIONS));
  return new Promise((resolve, reject) => {
    const client = new reflection.v1.ServerReflection(address, credentials);
    const stream = client.ServerReflectionInfo();
    let reply;
    stream.on("data", (message) => { reply = message; stream.end(); });
    stream.on("error", reject);
    stream.on("end", () => { client.close(); resolve(reply); });
    stream.write(request);
  });
}

function varint(number) {
  const bytes = [];
  for (; number > 127; number >>>= 7) bytes.push((number & 127) | 128);
  return Buffer.from([...bytes, number]);
}

async function learn(symbol) {
  const files = (await reflect({ file_containing_symbol: symbol })).file_descriptor_response.file_descriptor_proto;
  // A FileDescriptorSet is its files, each as field 1.
  const set = Buffer.concat(files.flatMap((file) => [Buffer.from([0x0a]), varint(file.length), file]));
  return grpc.loadPackageDefinition(loader.loadFileDescriptorSetFromBuffer(set, OPTIONS));
}

const call = (client, method, request) => new Promise((resolve, reject) =>
  client[method](request, (error, reply) => (error ? reject(error) : resolve(reply))));

async function main() {
  const services = (await reflect({ list_services: "" })).list_services_response.service.map(({ name }) => name);

  const Health = (await learn("grpc.health.v1.Health")).grpc.health.v1.Health;
  const health = new Health(address, credentials);
  const { status } = await call(health, "Check", { service: "containerd.shim.v1.Shim" });
  health.close();

  const definition = proto
    ? grpc.loadPackageDefinition(loader.loadSync(proto, { ...OPTIONS, includeDirs }))
    : await learn("containerd.shim.v1.Shim");
  const shim = new definition.containerd.shim.v1.Shim(address, credentials);
  const events = [];
  const stream = shim.Events({});
  const subscribed = new Promise((resolve) => stream.once("metadata", resolve));
  const exited = new Promise((resolve) => {
    stream.on("data", (event) => { events.push(event); if (event.type === "EXIT") resolve(); });
    stream.on("error", () => {});
  });
  await subscribed;
  const { pid } = await call(shim, "Create", { id, bundle });
  await call(shim, "Start", {});
  await exited;
  const state = await call(shim, "State", {});
  const { exit_status } = await call(shim, "Delete", { pid });
  const refused = await call(shim, "Start", {}).catch(({ code, details }) => ({ code, details }));
  stream.cancel();
  shim.close();
  console.log(JSON.stringify({ services, health: status, pid, state, events, exit_status, refused }));
}

main().catch((error) => { console.error(error); process.exitCode = 1; });
