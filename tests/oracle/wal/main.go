// wal: Milvus 2.6's own code for its write-ahead log, on an etcd and a bucket.
//
//	wal append CHANNEL FROM TO [PAUSE-MS]   appends messages, prints "number id" of each once it is durable
//	wal read CHANNEL ID|all                 prints "number id" of what is there, until nothing comes for 3 s
package main

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/milvus-io/milvus-proto/go-api/v2/commonpb"
	"github.com/milvus-io/milvus/pkg/v2/streaming/util/message"
	"github.com/milvus-io/milvus/pkg/v2/streaming/util/options"
	"github.com/milvus-io/milvus/pkg/v2/streaming/util/types"
	"github.com/milvus-io/milvus/pkg/v2/streaming/walimpls"
	_ "github.com/milvus-io/milvus/pkg/v2/streaming/walimpls/impls/wp"
	"github.com/milvus-io/milvus/pkg/v2/streaming/walimpls/registry"
	"github.com/milvus-io/milvus/pkg/v2/util/paramtable"
)

func must(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "wal:", err)
		os.Exit(1)
	}
}

func number(s string) int {
	n, err := strconv.Atoi(s)
	must(err)
	return n
}

func main() {
	paramtable.Init()
	for _, pair := range strings.Fields(os.Getenv("WAL_SETTINGS")) {
		key, value, _ := strings.Cut(pair, "=")
		must(paramtable.Get().Save(key, value))
	}
	verb, channel, args := os.Args[1], os.Args[2], os.Args[3:]
	builder := registry.MustGetBuilder(message.WALNameWoodpecker)
	opener, err := builder.Build()
	must(err)
	defer opener.Close()
	ctx := context.Background()
	log, err := opener.Open(ctx, &walimpls.OpenOption{Channel: types.PChannelInfo{Name: channel, Term: 1, AccessMode: types.AccessModeRW}})
	must(err)
	out := bufio.NewWriter(os.Stdout)
	defer out.Flush()
	switch verb {
	case "append":
		pause := 0
		if len(args) > 2 {
			pause = number(args[2])
		}
		for n := number(args[0]); n < number(args[1]); n++ {
			body := fmt.Sprintf("%d %s", n, strings.Repeat(strconv.Itoa(n), 200))
			id, err := log.Append(ctx, message.NewMutableMessageBeforeAppend([]byte(body), map[string]string{"n": strconv.Itoa(n)}))
			must(err)
			fmt.Fprintln(out, n, id.Marshal())
			out.Flush()
			time.Sleep(time.Duration(pause) * time.Millisecond)
		}
	case "read":
		policy := options.DeliverPolicyAll()
		if args[0] != "all" {
			id, err := message.UnmarshalMessageID(&commonpb.MessageID{Id: args[0], WALName: commonpb.WALName_WoodPecker})
			must(err)
			policy = options.DeliverPolicyStartFrom(id)
		}
		scanner, err := log.Read(ctx, walimpls.ReadOption{Name: fmt.Sprint("reader-", time.Now().UnixNano()), DeliverPolicy: policy})
		must(err)
		for idle := time.NewTimer(10 * time.Second); ; {
			select {
			case m, ok := <-scanner.Chan():
				if !ok {
					must(scanner.Error())
					return
				}
				n, rest, _ := strings.Cut(string(m.Payload()), " ")
				if rest != strings.Repeat(n, 200) {
					must(fmt.Errorf("message %s is not what was written", n))
				}
				fmt.Fprintln(out, n, m.MessageID().Marshal())
				idle.Reset(3 * time.Second)
			case <-idle.C:
				return
			}
		}
	}
	log.Close()
}
