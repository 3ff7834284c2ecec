# shellcheck shell=bash
# Starts real servers on loopback for demo, tests and measurements. Source it:
#
#   . scripts/lib.sh
#   start_etcd src 3.5              # or: start_etcd src 3.6 --tls -- --max-txn-ops=1000
#   etcdctl_of src put a b
#   start_minio store               # or: start_minio store --tls
#   make_bucket store backups
#   echo "${URL[src]} ${PID[src]} ${DIR[src]} ${CA[src]:-}"
#   stop src                        # start_etcd src 3.5 again: same data, same port
#   start_weed other                # SeaweedFS, a second S3 implementation
#   start_moto third                # moto, S3 in memory
#   start_kafka queue               # ${URL[queue]} has no scheme; "has kafka" says whether there is one
#   start_pulsar queue              # the same, and ${MANAGEMENT[queue]}
#   start_milvus milvus 2.3.5 etcd-NAME minio-NAME bucket   # on etcd and MinIO started before
#
# All that was started is stopped, by its own pid, and the temporary directory is
# removed when the script ends, however it ends. KEEP=1 keeps the directory.
# Call these functions in the script's own shell, never in $( ) or a pipe: what
# they start would be forgotten.
#
# Variables for the caller: TMP (temporary directory), CACHE, PYTHON (has boto3),
# ORACLE (tests/oracle), ACCESS_KEY and SECRET_KEY (of every S3 server here),
# URL, PID, DIR, CA, MANAGEMENT by server name, and PORT (set by free_port).
# shellcheck disable=SC2034 # many are for the caller

[[ -n ${BASH_VERSION:-} ]] || { echo "lib.sh needs bash" >&2; return 1; }

CACHE=${ICECORE_CACHE:-$HOME/.cache/icecore}
PYTHON=$CACHE/venv/bin/python
ORACLE=$(cd "$(dirname "${BASH_SOURCE[0]}")/../tests/oracle" && pwd)
ACCESS_KEY=icecore-test
SECRET_KEY=icecore-test-secret
declare -gA URL=() PID=() DIR=() CA=() MANAGEMENT=()
# Not for the caller: the ports of a server, kept for its restart, and the etcdctl
# of its version.
declare -gA _PORTS=() _ETCDCTL=()
declare -ga _AT_EXIT=()
declare -gA _TAKEN=()

# Results must not depend on whose shell this runs in.
unset "${!AWS_@}" "${!MINIO_@}" "${!ETCD_@}" "${!ETCDCTL_@}"
# A profile in the home directory counts as well, and so does a proxy.
export AWS_CONFIG_FILE=/dev/null AWS_SHARED_CREDENTIALS_FILE=/dev/null
export AWS_EC2_METADATA_DISABLED=true AWS_DEFAULT_REGION=us-east-1
export no_proxy=127.0.0.1,localhost NO_PROXY=127.0.0.1,localhost

die() { echo "${0##*/}: $*" >&2; exit 1; }

# built: the binary's path. Needs CARGO_TARGET_DIR (scripts/env.sh); without the binary the script ends
# (under set -e, as $(built)).
built() {
  local binary=$CARGO_TARGET_DIR/release/icecore
  [[ -x $binary ]] || die "$binary is not there: make build"
  echo "$binary"
}

TMP=$(mktemp -d "${TMPDIR:-/tmp}/icecore.XXXXXX")

# at_exit COMMAND…: runs when the script ends, the last one first, servers still
# up. (A trap on EXIT of the caller's own would replace the one here.)
at_exit() { _AT_EXIT+=("$(printf '%q ' "$@")"); }

_cleanup() {
  local rc=$? i name
  trap - EXIT
  trap '' INT TERM HUP
  set +e
  for ((i = ${#_AT_EXIT[@]} - 1; i >= 0; i--)); do eval "${_AT_EXIT[i]}"; done
  for name in "${!PID[@]}"; do stop "$name" KILL; done
  if [[ -n ${KEEP:-} ]]; then echo "kept $TMP" >&2; else rm -rf "$TMP"; fi
  exit "$rc"
}
trap _cleanup EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM

# Sets PORT to a free loopback port. Below 32768, where the kernel picks the ports
# of outgoing connections: one of those could take it before the server does.
free_port() {
  local tries
  for ((tries = 0; tries < 200; tries++)); do
    PORT=$((20000 + RANDOM % 12000))
    [[ -n ${_TAKEN[$PORT]:-} ]] && continue
    # Refused means nobody listens.
    (: <"/dev/tcp/127.0.0.1/$PORT") 2>/dev/null && continue
    _TAKEN[$PORT]=1
    return 0
  done
  die "no free port found"
}

# Starts a server in the background: _launch NAME COMMAND…
_launch() {
  local name=$1
  shift
  # Should this script be killed outright, no trap runs: the kernel then ends them.
  local guard=()
  setpriv --pdeathsig KILL true 2>/dev/null && guard=(setpriv --pdeathsig KILL)
  "${guard[@]}" "$@" >>"${DIR[$name]}/log" 2>&1 </dev/null &
  PID[$name]=$!
}

# _await NAME COMMAND…: until the command succeeds, at most 60 s.
_await() {
  local name=$1 deadline=$((SECONDS + 60))
  shift
  until "$@" >/dev/null 2>&1; do
    if ! kill -0 "${PID[$name]}" 2>/dev/null || ((SECONDS > deadline)); then
      tail -n 20 "${DIR[$name]}/log" >&2
      die "server $name did not become ready"
    fi
    sleep 0.1
  done
}

# stop NAME [SIGNAL]: ends it (TERM) and waits until it has ended.
stop() {
  local pid=${PID[$1]:-}
  [[ -n $pid ]] || return 0
  unset "PID[$1]"
  kill -s "${2:-TERM}" "$pid" 2>/dev/null || true
  wait "$pid" 2>/dev/null || true
}

# The data directory of a server, and its ports: kept when it is started again.
_place() { # NAME NUMBER-OF-PORTS
  local name=$1 i
  [[ -z ${PID[$name]:-} ]] || die "server $name runs already"
  [[ -n ${DIR[$name]:-} ]] && return 0
  DIR[$name]=$TMP/$name
  mkdir -p "${DIR[$name]}"
  _PORTS[$name]=
  for ((i = 0; i < $2; i++)); do
    free_port
    _PORTS[$name]+="$PORT "
  done
}

# make_certs DIR [CLIENT-SUBJECT]: a CA, a server's certificate for loopback and a
# client's (ca.pem, server.pem, server-key.pem, client.pem, client-key.pem).
# No common name in the client's unless given ("/CN=name"): to etcd with auth on it
# is a user's name, and etcd's HTTP gateway, which fill.py uses, then refuses it.
make_certs() {
  local dir=$1 client=${2:-/O=icecore test client} who subject usage
  mkdir -p "$dir"
  {
    openssl ecparam -name prime256v1 -genkey -noout | openssl pkcs8 -topk8 -nocrypt -out "$dir/ca-key.pem"
    openssl req -x509 -new -key "$dir/ca-key.pem" -days 30 -subj '/CN=icecore test CA' \
      -addext 'basicConstraints=critical,CA:TRUE' -addext 'keyUsage=critical,keyCertSign,cRLSign' -out "$dir/ca.pem"
    for who in server client; do
      subject=$client usage=clientAuth
      # etcd's HTTP gateway dials etcd itself with the server's certificate.
      [[ $who == server ]] && subject=/CN=localhost usage=serverAuth,clientAuth
      openssl ecparam -name prime256v1 -genkey -noout | openssl pkcs8 -topk8 -nocrypt -out "$dir/$who-key.pem"
      openssl req -new -key "$dir/$who-key.pem" -subj "$subject" |
        openssl x509 -req -CA "$dir/ca.pem" -CAkey "$dir/ca-key.pem" -CAcreateserial -days 30 -out "$dir/$who.pem" \
          -extfile <(printf '%s\n' basicConstraints=CA:FALSE "extendedKeyUsage=$usage" \
            subjectKeyIdentifier=hash authorityKeyIdentifier=keyid 'subjectAltName=IP:127.0.0.1,DNS:localhost')
    done
  } 2>"$dir/openssl.log" || { cat "$dir/openssl.log" >&2; die "openssl failed"; }
}

# etcd_dir MINOR: prints where etcd of that minor version lies.
etcd_dir() {
  local dir
  for dir in "$CACHE/servers/etcd-$1".*; do
    [[ -x $dir/etcd ]] && { echo "$dir"; return 0; }
  done
  echo "etcd $1 is not there: scripts/servers.sh etcd-$1" >&2
  return 1
}

# start_etcd NAME MINOR [--tls] [-- ETCD-OPTION…]. With --tls clients must show a
# certificate: DIR[NAME]/certs, and CA[NAME] is the CA's file. An existing
# DIR[NAME]/data (put there by a restore) is what it starts on.
start_etcd() {
  local name=$1 minor=$2 scheme=http bin client peer tls=() certs=() fsync=()
  shift 2
  bin=$(etcd_dir "$minor") || exit 1
  _place "$name" 2
  read -r client peer <<<"${_PORTS[$name]}"
  if [[ ${1:-} == --tls ]]; then
    shift
    scheme=https
    [[ -f ${DIR[$name]}/certs/ca.pem ]] || make_certs "${DIR[$name]}/certs"
    CA[$name]=${DIR[$name]}/certs/ca.pem
    certs=(--cacert "${CA[$name]}" --cert "${DIR[$name]}/certs/client.pem" --key "${DIR[$name]}/certs/client-key.pem")
    tls=(--client-cert-auth "--trusted-ca-file=${CA[$name]}"
      "--cert-file=${DIR[$name]}/certs/server.pem" "--key-file=${DIR[$name]}/certs/server-key.pem")
  fi
  [[ ${1:-} == -- ]] && shift
  URL[$name]=$scheme://127.0.0.1:$client
  # The data is thrown away, and a killed process loses nothing by it.
  [[ $minor == 3.4 ]] || fsync=(--unsafe-no-fsync)
  # A name of its own for the cluster: nothing else on this machine can join it.
  _launch "$name" "$bin/etcd" --name "$name" --data-dir "${DIR[$name]}/data" \
    --listen-client-urls "${URL[$name]}" --advertise-client-urls "${URL[$name]}" \
    --listen-peer-urls "http://127.0.0.1:$peer" --initial-advertise-peer-urls "http://127.0.0.1:$peer" \
    --initial-cluster "$name=http://127.0.0.1:$peer" --initial-cluster-token "icecore-$name-$peer" \
    --quota-backend-bytes $((8 << 30)) --log-level warn --logger zap \
    "${fsync[@]}" "${tls[@]}" "$@"
  _ETCDCTL[$name]=$bin/etcdctl
  # Over HTTP health needs no user, also with auth on.
  _await "$name" curl -fsS "${certs[@]}" "${URL[$name]}/health"
}

# etcd_restore_args NAME: the member options that "etcdutl snapshot restore" needs
# for its data directory to fit a later start_etcd NAME (one argument a line).
etcd_restore_args() {
  local peer
  read -r _ peer <<<"${_PORTS[$1]}"
  printf '%s\n' --name "$1" --initial-advertise-peer-urls "http://127.0.0.1:$peer" \
    --initial-cluster "$1=http://127.0.0.1:$peer" --initial-cluster-token "icecore-$1-$peer" \
    --data-dir "${DIR[$1]}/data"
}

# Reserves place and ports for an etcd that is started later.
place_etcd() { _place "$1" 2; }

# etcdctl_of NAME ARGUMENT…: the etcdctl of its version, with its endpoint and
# certificates. Give --user yourself.
etcdctl_of() {
  local name=$1 tls=()
  shift
  [[ -n ${CA[$name]:-} ]] && mapfile -t tls < <(tls_args "$name")
  local api=()
  # Only 3.4 needs it; later ones warn about it.
  [[ ${_ETCDCTL[$name]} != */etcd-3.4.* ]] || api=(ETCDCTL_API=3)
  env "${api[@]}" "${_ETCDCTL[$name]}" --endpoints "${URL[$name]}" "${tls[@]}" "$@"
}

# tls_args NAME: the etcdctl-style options for its certificates, one a line; none
# without TLS. dump.py and fill.py take the same.
tls_args() {
  [[ -n ${CA[$1]:-} ]] || return 0
  printf '%s\n' --cacert "${CA[$1]}" --cert "${DIR[$1]}/certs/client.pem" --key "${DIR[$1]}/certs/client-key.pem"
}

# enable_auth NAME USER PASSWORD PREFIX: turns auth on with root (password "root")
# and a user who may read and write what is under the prefix.
enable_auth() {
  local name=$1 user=$2 password=$3 prefix=$4
  {
    etcdctl_of "$name" user add root:root
    etcdctl_of "$name" user grant-role root root
    etcdctl_of "$name" role add "$user"
    etcdctl_of "$name" role grant-permission "$user" readwrite --prefix=true "$prefix"
    etcdctl_of "$name" user add "$user:$password"
    etcdctl_of "$name" user grant-role "$user" "$user"
    etcdctl_of "$name" auth enable
  } >/dev/null
}

# start_minio NAME [--tls] [-- MINIO-OPTION…]
start_minio() {
  local name=$1 scheme=http ca=() port console
  shift
  [[ -x $CACHE/bin/minio ]] || die "minio is not there: scripts/servers.sh minio"
  _place "$name" 2
  read -r port console <<<"${_PORTS[$name]}"
  # Its default directory is in the home directory, and certificates there would
  # turn TLS on.
  mkdir -p "${DIR[$name]}/data" "${DIR[$name]}/minio-certs/CAs"
  if [[ ${1:-} == --tls ]]; then
    shift
    scheme=https
    [[ -f ${DIR[$name]}/certs/ca.pem ]] || make_certs "${DIR[$name]}/certs"
    CA[$name]=${DIR[$name]}/certs/ca.pem
    ca=(--cacert "${CA[$name]}")
    cp "${DIR[$name]}/certs/server.pem" "${DIR[$name]}/minio-certs/public.crt"
    cp "${DIR[$name]}/certs/server-key.pem" "${DIR[$name]}/minio-certs/private.key"
  fi
  [[ ${1:-} == -- ]] && shift
  URL[$name]=$scheme://127.0.0.1:$port
  # No look-up of a newer version: nothing here leaves this machine.
  _launch "$name" env MINIO_ROOT_USER="$ACCESS_KEY" MINIO_ROOT_PASSWORD="$SECRET_KEY" \
    MINIO_UPDATE=off MINIO_BROWSER=off MINIO_CALLHOME_ENABLE=off \
    "$CACHE/bin/minio" server "${DIR[$name]}/data" --address "127.0.0.1:$port" \
    --console-address "127.0.0.1:$console" --certs-dir "${DIR[$name]}/minio-certs" "$@"
  _await "$name" curl -fsS "${ca[@]}" "${URL[$name]}/minio/health/ready"
}

# start_weed NAME: SeaweedFS with its S3 gateway.
start_weed() {
  local name=$1 p
  [[ -x $CACHE/bin/weed ]] || die "SeaweedFS is not there: scripts/servers.sh seaweedfs"
  _place "$name" 9
  read -ra p <<<"${_PORTS[$name]}"
  mkdir -p "${DIR[$name]}/data"
  URL[$name]=http://127.0.0.1:${p[0]}
  cat >"${DIR[$name]}/s3.json" <<JSON
{"identities": [{"name": "test", "credentials": [{"accessKey": "$ACCESS_KEY", "secretKey": "$SECRET_KEY"}],
  "actions": ["Admin", "Read", "Write", "List", "Tagging"]}]}
JSON
  # Each gRPC port is given: the default is the port + 10000, which may be taken.
  _launch "$name" "$CACHE/bin/weed" server -dir="${DIR[$name]}/data" -ip=127.0.0.1 -ip.bind=127.0.0.1 \
    -master.port="${p[1]}" -master.port.grpc="${p[2]}" -master.volumeSizeLimitMB=1024 -master.telemetry=false \
    -volume.port="${p[3]}" -volume.port.grpc="${p[4]}" -volume.max=100 \
    -filer.port="${p[5]}" -filer.port.grpc="${p[6]}" -filer.localSocket="${DIR[$name]}/filer.sock" \
    -s3 -s3.port="${p[0]}" -s3.port.grpc="${p[7]}" -s3.port.iceberg=0 -s3.port.lance=0 -iam.port="${p[8]}" \
    -s3.localSocket="${DIR[$name]}/s3.sock" -s3.config="${DIR[$name]}/s3.json"
  _await "$name" curl -fsS "${URL[$name]}/healthz"
}

# start_moto NAME: moto's server, S3 in memory: gone when it is stopped.
start_moto() {
  local name=$1 port
  _place "$name" 1
  read -r port <<<"${_PORTS[$name]}"
  URL[$name]=http://127.0.0.1:$port
  _launch "$name" "$PYTHON" -m moto.server -H 127.0.0.1 -p "$port"
  _await "$name" curl -fsS "${URL[$name]}/moto-api/"
}

# jars kafka|pulsar: prints where its jars lie.
jars() { compgen -G "$CACHE/servers/$1-*" | head -n 1; }
# has kafka|pulsar
has() { command -v java >/dev/null && [[ -n $(jars "$1") ]]; }

# start_kafka NAME: one server that is broker and controller.
start_kafka() {
  local name=$1 jars port controller java=(java -Xmx512m -Dorg.slf4j.simpleLogger.defaultLogLevel=warn -cp)
  has kafka || die "Kafka is not there: scripts/servers.sh kafka"
  jars="$(jars kafka)/*"
  _place "$name" 2
  read -r port controller <<<"${_PORTS[$name]}"
  URL[$name]=127.0.0.1:$port
  printf '%s\n' process.roles=broker,controller node.id=1 "controller.quorum.voters=1@127.0.0.1:$controller" \
    "listeners=PLAINTEXT://127.0.0.1:$port,CONTROLLER://127.0.0.1:$controller" controller.listener.names=CONTROLLER \
    "advertised.listeners=PLAINTEXT://127.0.0.1:$port" inter.broker.listener.name=PLAINTEXT \
    "log.dirs=${DIR[$name]}/data" offsets.topic.num.partitions=1 offsets.topic.replication.factor=1 \
    transaction.state.log.replication.factor=1 transaction.state.log.min.isr=1 >"${DIR[$name]}/properties"
  # The cluster's id is any 16 bytes.
  [[ -d ${DIR[$name]}/data ]] ||
    "${java[@]}" "$jars" kafka.tools.StorageTool format -t AAAAAAAAAAAAAAAAAAAAAA -c "${DIR[$name]}/properties" >>"${DIR[$name]}/log" 2>&1
  _launch "$name" "${java[@]}" "$jars" kafka.Kafka "${DIR[$name]}/properties"
  _await "$name" bash -c ": <'/dev/tcp/127.0.0.1/$port'"
}

# start_pulsar NAME: broker, bookie and ZooKeeper in one process.
start_pulsar() {
  local name=$1 port web keeper bookie package opens=()
  has pulsar || die "Pulsar is not there: scripts/servers.sh pulsar"
  _place "$name" 4
  read -r port web keeper bookie <<<"${_PORTS[$name]}"
  URL[$name]=127.0.0.1:$port
  MANAGEMENT[$name]=http://127.0.0.1:$web
  printf '%s\n' zookeeperServers= configurationStoreServers= clusterName=standalone "brokerServicePort=$port" \
    "webServicePort=$web" bindAddress=127.0.0.1 advertisedAddress=127.0.0.1 allowAutoTopicCreationType=non-partitioned \
    managedLedgerDefaultEnsembleSize=1 managedLedgerDefaultWriteQuorum=1 managedLedgerDefaultAckQuorum=1 \
    brokerDeleteInactiveTopicsEnabled=false >"${DIR[$name]}/properties"
  # It looks into Java itself, which later versions of Java want to be told.
  for package in java.base/{java.lang,java.nio,java.util.zip,jdk.internal.loader,jdk.internal.misc,sun.net} java.management/sun.management; do
    opens+=(--add-opens "$package=ALL-UNNAMED")
  done
  _launch "$name" java -Xmx1g -Dio.netty.tryReflectionSetAccessible=true "${opens[@]}" -cp "$(jars pulsar)/*" \
    org.apache.pulsar.PulsarStandaloneStarter -c "${DIR[$name]}/properties" --no-functions-worker --no-stream-storage \
    -a 127.0.0.1 --zookeeper-port "$keeper" --zookeeper-dir "${DIR[$name]}/data/zookeeper" \
    --bookkeeper-port "$bookie" --bookkeeper-dir "${DIR[$name]}/data/bookkeeper"
  _await "$name" curl -fsS "${MANAGEMENT[$name]}/admin/v2/persistent/public/default"
}

# start_milvus NAME VERSION ETCD MINIO BUCKET [SETTING=VALUE…]: a standalone Milvus on an
# etcd and a MinIO started before. Its message queue and local files are in
# DIR[NAME]/local. Settings are Milvus's own, as environment variables
# (COMMON_SECURITY_AUTHORIZATIONENABLED=true); ROOT=by-dev and FILES=files are the root
# paths in etcd and in the bucket. URL[NAME] is where clients connect, MANAGEMENT[NAME]
# its HTTP port.
start_milvus() {
  local name=$1 version=$2 etcd=$3 minio=$4 bucket=$5 root=by-dev files=files home p names script=() i setting=()
  shift 5
  for i; do
    case $i in
      ROOT=*) root=${i#*=} ;;
      FILES=*) files=${i#*=} ;;
      *) setting+=("$i") ;;
    esac
  done
  home=$CACHE/servers/milvus-$version
  [[ -x $home/bin/milvus ]] || die "Milvus is not there: scripts/servers.sh milvus-$version"
  _place "$name" 10
  read -ra p <<<"${_PORTS[$name]}"
  names=(proxy_port proxy_internal_port root_coord_port query_coord_port query_node_port index_coord_port
    index_node_port data_coord_port data_node_port)
  for i in "${!names[@]}"; do script+=(-e "s/{{ ${names[i]}(int)[: 0-9]* }}/${p[i]}/"); done
  mkdir -p "${DIR[$name]}"/{configs,local,logs}
  # What is left in braces has its default behind the colon, or is a path.
  sed "${script[@]}" \
    -e "s|localhost:{{ etcd_port(int): 2379 }}|${URL[$etcd]#http://}|" -e 's/embed: true/embed: false/' \
    -e "s|rootPath: by-dev|rootPath: $root|" -e "s|rootPath: files|rootPath: $files|" \
    -e 's/storageType: local/storageType: minio/' -e 's/address: localhost # Address of MinIO/address: 127.0.0.1 #/' \
    -e "s/port: 9000/port: ${URL[$minio]##*:}/" -e "s/bucketName: a-bucket/bucketName: $bucket/" \
    -e "s/accessKeyID: minioadmin/accessKeyID: $ACCESS_KEY/" -e "s/secretAccessKey: minioadmin/secretAccessKey: $SECRET_KEY/" \
    -e 's/^  ip: .*/  ip: 127.0.0.1/' -e "s|{{ system_log_path }}|${DIR[$name]}/logs|" \
    -e "s/localhost:22930/127.0.0.1:${p[5]}/" -e "s|{{ rock[a-z]*_data_dir }}|${DIR[$name]}/local/rocksmq|" -e "s|{{ [a-z_]*_dir }}|${DIR[$name]}/local|" \
    -e 's/{{ etcd_log_path }}/stdout/' -e 's/{{ [a-z_()]*: *\([^ ]*\) }}/\1/' "$home/milvus.yaml" >"${DIR[$name]}/configs/milvus.yaml"
  cp -r "$home/configs/." "${DIR[$name]}/configs/"
  URL[$name]=http://127.0.0.1:${p[0]}
  MANAGEMENT[$name]=http://127.0.0.1:${p[9]}
  _launch "$name" env -C "${DIR[$name]}" DEPLOY_MODE=STANDALONE MILVUSCONF="${DIR[$name]}/configs" \
    LD_LIBRARY_PATH="$home/bin" METRICS_PORT="${p[9]}" "${setting[@]}" "$home/bin/milvus" run standalone
  _await "$name" curl -fsS "${MANAGEMENT[$name]}/healthz"
}

# s3_args NAME: the options of dump.py and fill.py for it, one a line.
s3_args() {
  printf '%s\n' --endpoint "${URL[$1]}" --access-key "$ACCESS_KEY" --secret-key "$SECRET_KEY"
  [[ -z ${CA[$1]:-} ]] || printf '%s\n' --ca "${CA[$1]}"
}

# make_bucket NAME BUCKET. Tried for a while: SeaweedFS answers before all of its
# parts have found each other.
make_bucket() {
  "$PYTHON" - "$1" "$2" "${URL[$1]}" "$ACCESS_KEY" "$SECRET_KEY" "${CA[$1]:-}" <<'PYTHON'
import sys, time, boto3
from botocore.config import Config
_, name, bucket, url, access, secret, ca = sys.argv
s3 = boto3.client("s3", endpoint_url=url, aws_access_key_id=access, aws_secret_access_key=secret,
                  region_name="us-east-1", verify=ca or None,
                  config=Config(s3={"addressing_style": "path"}))
for attempt in range(60):
    try:
        s3.create_bucket(Bucket=bucket)
        break
    except (s3.exceptions.BucketAlreadyOwnedByYou, s3.exceptions.BucketAlreadyExists):
        break
    except Exception as error:
        if attempt == 59:
            sys.exit(f"make_bucket: {name}: {error}")
        time.sleep(0.5)
PYTHON
}
