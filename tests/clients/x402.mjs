// x402's own client against a node that sells, unchanged: `node x402.mjs URL RPC KEY SCHEME` prints what it
// was charged; SCHEME is batch-settlement, or exact, which pays outright. The development chain's dollar is none that it knows, so it is told to pay in any.
import { BatchSettlementEvmScheme } from '@x402/evm/batch-settlement/client'
import { ExactEvmScheme } from '@x402/evm/exact/client'
import {
  extractOffersFromPaymentRequired,
  verifyOfferSignatureEIP712,
  verifyReceiptSignatureEIP712,
} from '@x402/extensions/offer-receipt'
import { decodePaymentRequiredHeader } from '@x402/core/http'
import { decodePaymentResponseHeader, wrapFetchWithPayment, x402Client } from '@x402/fetch'
import { toClientEvmSigner } from '@x402/evm'
import { createPublicClient, http } from 'viem'
import { privateKeyToAccount } from 'viem/accounts'

const [url, rpc, key, scheme] = process.argv.slice(2)
const Scheme = { 'batch-settlement': BatchSettlementEvmScheme, exact: ExactEvmScheme }[scheme]
const chain = createPublicClient({ transport: http(rpc) })
const signer = toClientEvmSigner(privateKeyToAccount(key), chain)
const client = new x402Client().register('eip155:31337', new Scheme(signer))
client.setSpendControls(false)
const pay = wrapFetchWithPayment(fetch, client)

async function ask(body) {
  const answer = await pay(`${url}/v1/chat/completions`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ max_tokens: 12, messages: [{ role: 'user', content: 'hello' }], ...body }),
  })
  const text = await answer.text()
  if (answer.status !== 200) throw new Error(`${answer.status}: ${text}`)
  return { text, paid: decodePaymentResponseHeader(answer.headers.get('payment-response')) }
}

// who signed the offer, and later that it was paid and served
const signers = []
const unpaid = await fetch(`${url}/v1/chat/completions`)
const required = decodePaymentRequiredHeader(unpaid.headers.get('payment-required'))
for (const offer of extractOffersFromPaymentRequired(required))
  signers.push((await verifyOfferSignatureEIP712(offer)).signer)

const charged = []
for (const model of ['law', 'base']) {
  const { text, paid } = await ask({ model })
  const { receipt } = paid.extensions['offer-receipt'].info
  signers.push((await verifyReceiptSignatureEIP712(receipt)).signer)
  charged.push([JSON.parse(text).lorikeet.amount, Number(paid.extra?.chargedAmount ?? paid.amount)])
}
const streamed = []
for (const _ of [1, 2]) {
  // the second one hears from a 402 what the first one cost; outright, each is paid by itself
  const { text, paid } = await ask({ model: 'base', stream: true })
  const last = text.trim().split('\n\n').at(-2).slice('data: '.length)
  streamed.push([JSON.parse(last).lorikeet.amount, Number(paid.amount ?? 0)])
}
console.log(JSON.stringify({ charged, streamed, signers }))
