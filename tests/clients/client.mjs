// Vercel's AI SDK against a daemon, unchanged: `node client.mjs URL PROVIDER` prints what it read.
// PROVIDER: compatible (chat completions), openai (the Responses API), anthropic (messages).
import { createAnthropic } from '@ai-sdk/anthropic'
import { createOpenAI } from '@ai-sdk/openai'
import { createOpenAICompatible } from '@ai-sdk/openai-compatible'
import { embedMany, generateText, jsonSchema, Output, stepCountIs, streamText, tool } from 'ai'

const [url, name] = process.argv.slice(2)
const settings = { baseURL: `${url}/v1`, apiKey: 'unused' }
const providers = {
  compatible: () =>
    createOpenAICompatible({
      name: 'lorikeet',
      includeUsage: true,
      supportsStructuredOutputs: true,
      ...settings,
    }),
  openai: () => createOpenAI(settings),
  anthropic: () => createAnthropic(settings),
}
const provider = providers[name]()
const model = provider('law')
const prompt = 'Is it raining in Bern?'
const schema = jsonSchema({
  type: 'object',
  properties: { at: { type: 'string', maxLength: 8 } },
  required: ['at'],
  additionalProperties: false,
})
const asked = []
const tools = {
  look: tool({
    description: 'Look whether it rains somewhere.',
    inputSchema: schema,
    execute: async ({ at }) => {
      asked.push(at)
      return `It rains in ${at}.`
    },
  }),
}
// One call an answer: a base of random weights would never stop making more.
const providerOptions = {
  lorikeet: { parallel_tool_calls: false },
  openai: { parallelToolCalls: false },
  anthropic: { disableParallelToolUse: true },
}
const report = {}

const brief = { model, system: 'Be brief.', prompt, maxOutputTokens: 12, temperature: 0 }
const whole = await generateText(brief)
report.whole = { text: whole.text, finish: whole.finishReason, usage: whole.usage.totalTokens }

const stream = streamText(brief)
let text = ''
for await (const part of stream.textStream) text += part
report.stream = { text, finish: await stream.finishReason, usage: (await stream.usage).totalTokens }

// Its first step must call the tool; the second reads the result and says what it likes.
const agent = await generateText({
  model,
  prompt,
  tools,
  providerOptions,
  maxOutputTokens: 300,
  stopWhen: stepCountIs(2),
  prepareStep: ({ stepNumber }) => ({ toolChoice: stepNumber ? 'none' : 'required' }),
})
report.agent = {
  asked: [...asked],
  steps: agent.steps.length,
  results: agent.steps[0].toolResults.map((result) => result.output),
  text: agent.text,
}

asked.length = 0
const streamed = streamText({
  model,
  prompt,
  tools,
  providerOptions,
  toolChoice: 'required',
  maxOutputTokens: 300,
})
const kinds = []
for await (const part of streamed.fullStream) kinds.push(part.type)
report.streamed = { asked: [...asked], kinds: [...new Set(kinds)] }

const object = await generateText({
  model,
  prompt,
  maxOutputTokens: 300,
  output: Output.object({ schema }),
})
report.object = object.output

if (name !== 'anthropic') {
  const embeddings = name === 'openai' ? provider.embedding('law') : provider.embeddingModel('law')
  const { embeddings: vectors } = await embedMany({ model: embeddings, values: ['a', 'b'] })
  report.embeddings = vectors.map((vector) => Math.hypot(...vector))
}

try {
  await generateText({ model: provider('nobody'), prompt, maxRetries: 0 })
} catch (error) {
  report.error = { status: error.statusCode, message: error.message }
}
console.log(JSON.stringify(report))
