// wal: Milvus 2.6's own code for its write-ahead log, on Woodpecker, an etcd and a bucket.
//
//	wal append LOG FROM TO PAUSE-MS FILE   appends messages; a line of FILE for each, once it is durable
//	wal read LOG FILE                      a line of FILE for each that is there, until none comes for 3 s
//
// A line is the message's number and its id. WAL_SETTINGS are settings of Milvus, "key=value key=value".
package main

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

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

func body(n string) string { return n + " " + strings.Repeat(n, 200) }

func open(name string) walimpls.WALImpls {
	paramtable.Init()
	for _, pair := range strings.Fields(os.Getenv("WAL_SETTINGS")) {
		key, value, _ := strings.Cut(pair, "=")
		must(paramtable.Get().Save(key, value))
	}
	opener, err := registry.MustGetBuilder(message.WALNameWoodpecker).Build()
	must(err)
	channel := types.PChannelInfo{Name: name, Term: 1, AccessMode: types.AccessModeRW}
	log, err := opener.Open(context.Background(), &walimpls.OpenOption{Channel: channel})
	must(err)
	return log
}

func appendTo(log walimpls.WALImpls, from, to int, pause time.Duration, out *os.File) {
	for n := from; n < to; n++ {
		msg := message.NewMutableMessageBeforeAppend([]byte(body(strconv.Itoa(n))), map[string]string{})
		id, err := log.Append(context.Background(), msg)
		must(err)
		fmt.Fprintln(out, n, id.Marshal())
		time.Sleep(pause)
	}
}

func read(log walimpls.WALImpls, out *os.File) {
	scanner, err := log.Read(context.Background(), walimpls.ReadOption{
		Name:          fmt.Sprint("reader-", time.Now().UnixNano()),
		DeliverPolicy: options.DeliverPolicyAll(),
	})
	must(err)
	for idle := time.NewTimer(10 * time.Second); ; {
		select {
		case msg, ok := <-scanner.Chan():
			if !ok {
				must(scanner.Error())
				return
			}
			n, _, _ := strings.Cut(string(msg.Payload()), " ")
			if string(msg.Payload()) != body(n) {
				must(fmt.Errorf("message %s is not what was written", n))
			}
			fmt.Fprintln(out, n, msg.MessageID().Marshal())
			idle.Reset(3 * time.Second)
		case <-idle.C:
			return
		}
	}
}

func main() {
	args := os.Args
	out, err := os.Create(args[len(args)-1])
	must(err)
	log := open(args[2])
	switch args[1] {
	case "append":
		appendTo(log, number(args[3]), number(args[4]), time.Duration(number(args[5]))*time.Millisecond, out)
	case "read":
		read(log, out)
	}
	log.Close()
	must(out.Close())
}
