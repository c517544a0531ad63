# shellcheck shell=bash
# A control plane without nodes: etcd, kube-apiserver, kube-controller-manager. Sourced by `testbed`.

start_control_plane() {
    local etcd_url=http://127.0.0.1:${ports[0]} api=https://$address:${ports[2]}
    local data=$dir/kubernetes token
    kubeconfig=$data/kubeconfig
    token=$(random_word)
    mkdir -p "$data"
    printf '%s,admin,admin,"system:masters"\n' "$token" >"$data/tokens.csv"
    openssl genrsa -out "$data/sa.key" 2048 2>/dev/null
    openssl rsa -in "$data/sa.key" -pubout -out "$data/sa.pub" 2>/dev/null

    start etcd "${tools[etcd]}" --data-dir "$data/etcd" --log-level warn --unsafe-no-fsync --quota-backend-bytes 8589934592 \
        --listen-client-urls "$etcd_url" --advertise-client-urls "$etcd_url" \
        --listen-peer-urls "http://127.0.0.1:${ports[1]}"

    # The endpoint reconciler keeps a Service up to date that only pods call.
    local endpoints=none
    [[ -z ${TESTBED_NODE:-} ]] || endpoints=lease
    api_server=("${tools[kube-apiserver]}" --etcd-servers "$etcd_url" \
        --bind-address "$address" --secure-port "${ports[2]}" --cert-dir "$data/certs" \
        --token-auth-file "$data/tokens.csv" --authorization-mode RBAC \
        --service-account-key-file "$data/sa.pub" --service-account-signing-key-file "$data/sa.key" \
        --service-account-issuer https://kubernetes.default.svc --service-cluster-ip-range 10.96.0.0/16 \
        --endpoint-reconciler-type "$endpoints" --profiling=false)
    start kube-apiserver "${api_server[@]}"

    cat >"$kubeconfig" <<YAML
apiVersion: v1
kind: Config
clusters: [{name: testbed, cluster: {server: "$api", certificate-authority: $data/certs/apiserver.crt}}]
users: [{name: admin, user: {token: $token}}]
contexts: [{name: testbed, context: {cluster: testbed, user: admin}}]
current-context: testbed
YAML
}

await_api_server() {
    await kube-apiserver 60 "${tools[kubectl]}" --kubeconfig "$kubeconfig" get --raw /readyz
}

await_control_plane() {
    local data=$dir/kubernetes
    await_api_server
    # Only what a test needs to see: namespaces and owned objects go, service accounts come. With a node all of them.
    local controllers=namespace-controller,garbage-collector-controller,serviceaccount-controller
    controllers+=,serviceaccount-token-controller,root-ca-certificate-publisher-controller,clusterrole-aggregation-controller
    [[ -z ${TESTBED_NODE:-} ]] || controllers='*'
    start kube-controller-manager "${tools[kube-controller-manager]}" --kubeconfig "$kubeconfig" \
        --leader-elect=false --secure-port 0 --service-account-private-key-file "$data/sa.key" \
        --root-ca-file "$data/certs/apiserver.crt" \
        --controllers "$controllers" \
        --namespace-sync-period 10s
    await kube-controller-manager 60 "${tools[kubectl]}" --kubeconfig "$kubeconfig" \
        get serviceaccount default --namespace default
}
