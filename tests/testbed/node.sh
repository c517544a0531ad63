# shellcheck shell=bash
# A node for the control plane: containerd, kubelet, kube-proxy, kube-scheduler and CoreDNS. Sourced by `testbed`, for
# `tests/node`, which gives it a network, mounts and processes of its own.

pod_network=10.98.0.0/24

start_node() {
    local data=$dir/node
    mkdir -p "$data/cni" "$data/kubelet"
    # It may lack the right to protect a container from the kernel's out-of-memory killer better than itself
    # (restrict_oom_score_adj).
    cat >"$data/containerd.toml" <<TOML
version = 3
root = "$data/containerd"
state = "$data/state"
[grpc]
address = "$data/containerd.sock"
[plugins."io.containerd.cri.v1.images"]
snapshotter = "overlayfs"
[plugins."io.containerd.cri.v1.images".pinned_images]
sandbox = "localhost/pause:latest"
[plugins."io.containerd.cri.v1.runtime"]
restrict_oom_score_adj = true
[plugins."io.containerd.cri.v1.runtime".cni]
bin_dirs = ["/usr/lib/cni"]
conf_dir = "$data/cni"
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
BinaryName = "${tools[runc]}"
TOML
    cat >"$data/cni/pods.conflist" <<JSON
{"cniVersion": "1.0.0", "name": "pods", "plugins": [{"type": "bridge", "bridge": "pods", "isGateway": true,
 "ipam": {"type": "host-local", "dataDir": "$data/addresses", "ranges": [[{"subnet": "$pod_network"}]],
          "routes": [{"dst": "0.0.0.0/0"}]}}]}
JSON
    # A machine with cgroup v1 is good enough here, and so is one whose disk is almost full.
    cat >"$data/kubelet.yaml" <<YAML
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
containerRuntimeEndpoint: unix://$data/containerd.sock
address: $address
authentication: {anonymous: {enabled: true}, webhook: {enabled: false}}
authorization: {mode: AlwaysAllow}
cgroupDriver: cgroupfs
failCgroupV1: false
failSwapOn: false
oomScoreAdj: 0
podLogsDir: $data/logs
resolvConf: $data/resolv.conf
clusterDNS: [$address]
clusterDomain: cluster.local
evictionHard: {memory.available: 0%, nodefs.available: 0%, nodefs.inodesFree: 0%, imagefs.available: 0%}
imageGCHighThresholdPercent: 100
YAML
    : >"$data/resolv.conf"
    start containerd env PATH="$containerd_cache:$PATH" "$containerd_cache/containerd" --config "$data/containerd.toml"
    await containerd 60 test -S "$data/containerd.sock"
    start kubelet "${tools[kubelet]}" --kubeconfig "$kubeconfig" --config "$data/kubelet.yaml" \
        --root-dir "$data/kubelet" --cert-dir "$data/certs" --hostname-override node --node-ip "$address"
    start kube-scheduler "${tools[kube-scheduler]}" --kubeconfig "$kubeconfig" --leader-elect=false --secure-port 0
    # The table of connections belongs to the whole machine.
    start kube-proxy "${tools[kube-proxy]}" --kubeconfig "$kubeconfig" --proxy-mode iptables --hostname-override node \
        --conntrack-max-per-core 0 --conntrack-tcp-timeout-established 0 --conntrack-tcp-timeout-close-wait 0
    cat >"$data/Corefile" <<COREFILE
.:53 {
    bind $address
    errors
    kubernetes cluster.local {
        kubeconfig $kubeconfig testbed
    }
}
COREFILE
    start coredns "${tools[coredns]}" -conf "$data/Corefile"
    await kubelet 120 "${tools[kubectl]}" --kubeconfig "$kubeconfig" wait node/node --for=condition=Ready --timeout=1s
}
