// Calls an API once for each line that it reads, and takes a token of a bucket before each call.
//
//   npm ci
//   seq 20 | AMQP_URL=amqp://user:password@rabbitmq:5672/%2F node worker.mjs my_api_client
import { createInterface } from 'node:readline';
import { setTimeout as sleep } from 'node:timers/promises';
import amqp from 'amqplib';

const bucket = process.argv[2];
const queue = `token_bucket_${bucket}`;
// While the operator replaces a queue, because its maximum is raised, the queue is missing for some milliseconds.
const missingAtMost = 2000;

if (!bucket) fail('usage: node worker.mjs BUCKET');
// What the library says of a URI that it cannot read repeats it, hence the password.
if (!URL.canParse(process.env.AMQP_URL)) fail('AMQP_URL: write amqp://user:password@host:5672/vhost, special characters escaped');

// It connects again when the connection is lost, with backoff.
const connection = await amqp
  .connect(process.env.AMQP_URL, { recovery: { initialMaxRetries: 5 } })
  .catch((error) => fail(`AMQP_URL: no connection to the broker: ${error.message}`));
connection.on('reconnect-scheduled', ({ delay, error }) => console.error(`${error.message}; connecting again in ${delay} ms`));
connection.on('error', () => {});
let channel;

async function openChannel() {
  const opened = await connection.createChannel();
  // The call that the broker answers with an error is rejected too.
  opened.on('error', () => {});
  return opened;
}

// Waits for a token. The queue is never declared here: that is the operator's part.
async function take() {
  for (let missing; ; ) {
    try {
      channel ??= await openChannel();
      if (await channel.get(queue, { noAck: true })) return;
      missing = undefined;
      // Not all workers that wait must ask at the same time.
      await sleep(500 + Math.random() * 1000);
    } catch (error) {
      // With each error the broker closes the channel.
      channel = undefined;
      if (error.code === 403) fail(`${error.message}: the user needs read on ${queue}`);
      if (!isMissing(error)) missing = undefined;
      else if (!missing) {
        console.error(`bucket ${bucket}: no queue at the moment; looking again`);
        missing = Date.now();
      }
      if (Date.now() - missing > missingAtMost) {
        fail(`bucket ${bucket}: ${error.message}: see kubectl get tb, and the name and the virtual host here`);
      }
      await sleep(50);
    }
  }
}

// 404 NOT_FOUND, or 405 RESOURCE_LOCKED in the moment in which the operator creates it.
function isMissing(error) {
  return error.code === 404 || error.code === 405;
}

function fail(message) {
  console.error(message);
  process.exit(1);
}

async function callTheApi(work) {
  console.log(`called for ${work}`);
}

// The work first, then the token: none is taken that is not used.
for await (const work of createInterface({ input: process.stdin })) {
  await take();
  await callTheApi(work);
}
await connection.close();
