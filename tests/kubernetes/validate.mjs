// Reads Kubernetes objects as JSON lines, and writes for each the errors that KEDA's schemas find, as one JSON array a line.
import { createInterface } from "node:readline";

for await (const line of createInterface({ input: process.stdin })) {
  const object = JSON.parse(line);
  const { [object.kind]: Model } = await import(`@kubernetes-models/keda/${object.apiVersion}/${object.kind}`);
  const errors = [];
  try {
    new Model(object).validate();
  } catch (error) {
    errors.push(error.message);
  }
  console.log(JSON.stringify(errors));
}
