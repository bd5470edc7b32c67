// An independent OPC UA client on our server:
//   OPCUA_PASSWORD=… node tools/opcua_check.mjs opc.tcp://HOST:4840/inspectd USER [PARTS]
// Needs `npm install node-opcua-client` in the folder OPCUA_MODULES, or here. Browses, reads every
// variable, hears the events of PARTS parts (says "listening" and waits for them), calls every method,
// and knocks without a user; prints one JSON object. It halts the line: not for one that produces.
import { createRequire } from "node:module";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
// What the library says is for people; standard output is for the object alone.
for (const name of ["log", "info", "warn"]) console[name] = console.error;
const require = createRequire(`${process.env.OPCUA_MODULES ?? process.cwd()}/x.js`);
const opcua = require("node-opcua-client");
const {
  AttributeIds, BrowseDirection, DataType, MessageSecurityMode, NodeClass, OPCUAClient,
  SecurityPolicy, TimestampsToReturn, UserTokenType, Variant, VariantArrayType,
  constructEventFilter,
} = opcua;
const { OPCUACertificateManager } = require("node-opcua-certificate-manager");

const [url, user, parts] = process.argv.slice(2);
const LISTEN_MS = 60_000;
const folder = mkdtempSync(join(tmpdir(), "opcua-check-"));
const found = { variables: 0, bad: [], methods: {}, events: {}, results: [], anonymous: "" };
const certificates = new OPCUACertificateManager({
  rootFolder: folder, automaticallyAcceptUnknownCertificate: true,
});
await certificates.initialize();
const options = {
  applicationName: "check",
  clientCertificateManager: certificates,
  endpointMustExist: false,
  connectionStrategy: { maxRetry: 2 },
  requestedSessionTimeout: 60_000,
};
const client = OPCUAClient.create({
  ...options,
  securityMode: MessageSecurityMode.SignAndEncrypt,
  securityPolicy: SecurityPolicy.Basic256Sha256,
});

/** The children of a node of the classes given: name, node id. */
async function children(session, nodeId, nodeClassMask) {
  const result = await session.browse({
    nodeId, nodeClassMask, browseDirection: BrowseDirection.Forward, includeSubtypes: true,
    referenceTypeId: "HierarchicalReferences", resultMask: 63,
  });
  return result.references ?? [];
}

/** Every method below a node, by name; reads every variable on the way. */
async function walk(session, nodeId, methods, seen = new Set()) {
  for (const child of await children(session, nodeId, 0)) {
    const id = child.nodeId.toString();
    if (seen.has(id)) continue;
    seen.add(id);
    if (child.nodeClass === NodeClass.Method) {
      methods.set(child.browseName.name, { objectId: nodeId, methodId: child.nodeId });
    } else if (child.nodeClass === NodeClass.Variable) {
      const value = await session.read({ nodeId: child.nodeId, attributeId: AttributeIds.Value });
      found.variables += 1;
      if (value.statusCode.isBad() && value.statusCode.name !== "BadStateNotActive")
        found.bad.push(`${id}: ${value.statusCode.name}`);
    }
    if (child.nodeClass === NodeClass.Object || child.nodeClass === NodeClass.Variable)
      await walk(session, child.nodeId, methods, seen);
  }
}

/** One call with empty arguments of the types that the method declares, or with those given. */
async function call(session, method, given = {}) {
  const definition = await session.getArgumentDefinition(method.methodId);
  const inputArguments = [];
  for (const argument of definition.inputArguments) {
    const isArray = argument.valueRank >= 1;
    const arrayType = isArray ? VariantArrayType.Array : VariantArrayType.Scalar;
    const dataType = await builtIn(session, argument.dataType);
    let value = given[argument.name];
    if (value === undefined && dataType === DataType.ExtensionObject && !isArray)
      value = await session.constructExtensionObject(argument.dataType, {});
    if (value === undefined) value = isArray ? [] : empty(dataType);
    inputArguments.push(new Variant({ dataType, arrayType, value }));
  }
  const answer = await session.call({ ...method, inputArguments });
  return {
    status: answer.statusCode.name,
    outputs: (answer.outputArguments ?? []).map((output) => output.value),
    declared: definition.outputArguments.length,
  };
}

function empty(dataType) {
  if (dataType === DataType.Boolean) return false;
  if (dataType === DataType.String) return "";
  if (dataType === DataType.LocalizedText) return { text: "" };
  return 0;
}

/** The built-in type that a data type stands for. */
async function builtIn(session, dataType) {
  for (let id = dataType; ; ) {
    if (id.namespace === 0 && id.value === 29) return DataType.Int32; // Enumeration
    if (id.namespace === 0 && id.value <= 25) return id.value === 24 ? DataType.Variant : id.value;
    const up = await session.browse({
      nodeId: id, browseDirection: BrowseDirection.Inverse, includeSubtypes: true,
      referenceTypeId: "HasSubtype", resultMask: 63,
    });
    if (!up.references?.length) return DataType.Variant;
    id = up.references[0].nodeId;
  }
}

try {
  await client.connect(url);
  const session = await client.createSession({
    type: UserTokenType.UserName, userName: user, password: process.env.OPCUA_PASSWORD ?? "",
  });
  const objects = await children(session, "ObjectsFolder", 0);
  const system = objects.find((child) => child.browseName.name === "VisionSystem");
  if (!system) throw new Error("Objects has no VisionSystem");
  const methods = new Map();
  await walk(session, system.nodeId, methods);

  const namespaces = await session.readNamespaceArray();
  const index = namespaces.indexOf("http://opcfoundation.org/UA/MachineVision");
  const subscription = await session.createSubscription2({
    requestedPublishingInterval: 50, publishingEnabled: true, requestedLifetimeCount: 1000,
    requestedMaxKeepAliveCount: 20, maxNotificationsPerPublish: 100,
  });
  const fields = ["EventType", `${index}:JobId`, `${index}:IsSimulated`];
  const events = await subscription.monitor(
    { nodeId: "Server", attributeId: AttributeIds.EventNotifier },
    { samplingInterval: 0, queueSize: 1000, filter: constructEventFilter(fields) },
    TimestampsToReturn.Both,
  );
  const names = new Map();
  events.on("changed", async (values) => {
    const kind = values[0].value?.toString();
    if (!names.has(kind)) {
      const name = await session.read({ nodeId: kind, attributeId: AttributeIds.BrowseName });
      names.set(kind, name.value.value.name);
    }
    const name = names.get(kind);
    found.events[name] = (found.events[name] ?? 0) + 1;
    if (name === "ResultReadyEventType")
      found.results.push({ job: values[1].value?.id ?? null, isSimulated: values[2].value });
  });

  process.stderr.write("listening\n");
  for (let ms = 0; (found.events.ResultReadyEventType ?? 0) < Number(parts ?? 0); ms += 50) {
    if (ms > LISTEN_MS) throw new Error(`expected ${parts} results, got ${JSON.stringify(found.events)}`);
    await new Promise((done) => setTimeout(done, 50));
  }
  const last = ["Halt", "Reset"]; // the line stands still between these two
  const order = [...methods.keys()].filter((name) => !last.includes(name)).concat(last);
  for (const name of order) {
    const { status, outputs, declared } = await call(session, methods.get(name));
    const error = outputs.at(-1);
    found.methods[name] = { status, outputs: outputs.length, declared, error: Number(error) || 0 };
  }
  await subscription.terminate();
  await session.close();
  await client.disconnect();

  const stranger = OPCUAClient.create(options);
  try {
    await stranger.connect(url);
    await stranger.createSession();
    found.anonymous = "let in";
  } catch (error) {
    found.anonymous = "refused";
  } finally {
    await stranger.disconnect();
  }
  process.stdout.write(`${JSON.stringify(found)}\n`);
} finally {
  await certificates.dispose();
  rmSync(folder, { recursive: true, force: true });
}
process.exit(0);
