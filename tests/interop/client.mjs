// A js-libp2p client, made from docs/protocols alone: it dials a helper, pings it, looks a name and
// its providers up, fetches blocks from whom it found and hashes them. It takes its task as JSON in
// its first argument, and prints what it found as JSON.
import './shim.mjs'
import { createHash } from 'node:crypto'
import { noise } from '@chainsafe/libp2p-noise'
import { yamux } from '@chainsafe/libp2p-yamux'
import { identify } from '@libp2p/identify'
import { ping } from '@libp2p/ping'
import { tcp } from '@libp2p/tcp'
import { webSockets } from '@libp2p/websockets'
import { decode, encode } from '@msgpack/msgpack'
import { multiaddr } from '@multiformats/multiaddr'
import { secp256k1 } from '@noble/curves/secp256k1.js'
import { createLibp2p } from 'libp2p'
import { base58btc } from 'multiformats/bases/base58'

const LOOKUP = '/lorikeet/lookup/1'
const BLOCKS = '/lorikeet/blocks/1'
const sha256 = (bytes) => createHash('sha256').update(bytes).digest()
const hex = (bytes) => Buffer.from(bytes).toString('hex')

// Frames: u32 big-endian length, then that many bytes (docs/protocols/p2p.md).
async function exchange (connection, protocol, payloads, numAnswers) {
  const stream = await connection.newStream(protocol)
  for (const payload of payloads) {
    const head = Buffer.alloc(4)
    head.writeUInt32BE(payload.length)
    stream.send(Buffer.concat([head, payload]))
  }
  const answers = []
  let buffered = Buffer.alloc(0)
  for await (const chunk of stream) {
    buffered = Buffer.concat([buffered, chunk.subarray()])
    while (buffered.length >= 4 && buffered.length >= 4 + buffered.readUInt32BE(0)) {
      const end = 4 + buffered.readUInt32BE(0)
      answers.push(buffered.subarray(4, end))
      buffered = buffered.subarray(end)
    }
    if (answers.length >= numAnswers) break
  }
  await stream.close()
  return answers
}

async function lookUp (connection, kind, key) {
  const [frame] = await exchange(connection, LOOKUP, [encode(['Lookup', kind, key, 600])], 1)
  const [message, ...fields] = decode(frame)
  if (message !== 'Found') throw new Error(`${message}: ${fields.join(' ')}`)
  return fields[1]
}

async function fetchBlocks (connection, digests) {
  const request = Buffer.concat(digests.map((digest) => Buffer.from(digest, 'hex')))
  const blocks = await exchange(connection, BLOCKS, [request], digests.length)
  return blocks.map((block) => hex(sha256(block)))
}

// The helper is not believed: a record is its owner's, or is none (docs/protocols/names.md).
function check (record, key) {
  const [version, publicKey, name, sequence, target, signature] = decode(record)
  const body = encode([version, publicKey, name, sequence, target])
  const digest = sha256(Buffer.concat([Buffer.from('lorikeet name record\n'), body]))
  const parsed = secp256k1.Signature.fromBytes(signature.subarray(0, 64), 'compact')
  const signer = parsed.addRecoveryBit(signature[64]).recoverPublicKey(digest)
  const owner = base58btc.encode(Buffer.concat([Buffer.from('002508021221', 'hex'), publicKey]))
  if (hex(signer.toBytes(true)) !== hex(publicKey)) throw new Error('not signed by its owner')
  if (key !== `/lorikeet/${owner.slice(1)}/${name}`) throw new Error('the record of another name')
  return target
}

// On loopback both ways are there; the task says which to take.
const isWanted = (address, way) => address.includes('/ws/') === (way === 'ws')

async function run (task, way) {
  const node = await createLibp2p({
    transports: [tcp(), webSockets()],
    connectionEncrypters: [noise()],
    streamMuxers: [yamux()],
    services: { identify: identify(), ping: ping() }
  })
  try {
    const helper = multiaddr(task.helper.find((address) => isWanted(address, way)))
    const connection = await node.dial(helper)
    await node.services.ping.ping(helper)
    const [record] = await lookUp(connection, 'name', Buffer.from(task.name))
    const target = check(record, task.name)
    const providers = (await lookUp(connection, 'providers', target)).map((one) => decode(one))
    const [, addresses] = providers[0]
    const provider = await node.dial(multiaddr(addresses.find((one) => isWanted(one, way))))
    const hashes = await fetchBlocks(provider, task.digests)
    return {
      record: hex(record),
      providers,
      hashes,
      over: [connection, provider].map((one) => one.remoteAddr.toString())
    }
  } finally {
    await node.stop()
  }
}

const task = JSON.parse(process.argv[2])
const found = {}
for (const way of ['ws', 'tcp']) found[way] = await run(task, way)
console.log(JSON.stringify(found))
process.exit(0)
