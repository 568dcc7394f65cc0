"""What reads the manifests of deploy/kubernetes: kustomize, and the schemas of Kubernetes and KEDA."""
