// The client of etcd in the comparison, driven over standard input and output.
//
//	etcd-client --servers=PID,PID,... n1=URL n2=URL ...
//
// It writes through the library that a Go program uses, to the server that leads. The servers are programs of their
// own: when standard input ends, this one takes them with it.
package main

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"syscall"
	"time"

	"../driven"
	"go.etcd.io/etcd/clientv3"
)

const (
	callersPerConnection = 64
	writeTimeout         = 10 * time.Second
	lookAgain            = 20 * time.Millisecond
	syncCounter          = "etcd_disk_wal_fsync_duration_seconds_count "
)

type server struct {
	url    string
	client *clientv3.Client
}

// cluster knows every server by name, and the one that leads.
type cluster struct {
	servers map[string]server
	leader  server
}

func main() {
	pids := flag.String("servers", "", "the processes to kill when standard input ends")
	flag.Parse()
	c := &cluster{servers: map[string]server{}}
	for _, member := range flag.Args() {
		words := strings.SplitN(member, "=", 2)
		client, err := dial(words[1])
		driven.Must(err)
		c.servers[words[0]] = server{words[1], client}
	}
	driven.Serve(c.obey)
	for _, word := range strings.Split(*pids, ",") {
		pid, err := strconv.Atoi(word)
		driven.Must(err)
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
}

func dial(url string) (*clientv3.Client, error) {
	return clientv3.New(clientv3.Config{Endpoints: []string{url}})
}

func (c *cluster) obey(request driven.Request) (driven.Answer, error) {
	switch request.Do {
	case "leader":
		return driven.Answer{"leader": c.findLeader()}, nil
	case "usage":
		return c.usage()
	case "propose":
		return c.propose(request)
	case "write":
		return c.writeAnywhere(request)
	}
	return nil, errors.New(request.Do + " is nothing that the client does")
}

func (c *cluster) findLeader() string {
	for {
		for name, server := range c.servers {
			within, cancel := context.WithTimeout(context.Background(), time.Second)
			status, err := server.client.Status(within, server.url)
			cancel()
			if err == nil && status.Leader == status.Header.MemberId {
				c.leader = server
				return name
			}
		}
		time.Sleep(lookAgain)
	}
}

// usage reads the leader's term, its log's length, and how often its log was synced.
func (c *cluster) usage() (driven.Answer, error) {
	status, err := c.leader.client.Status(context.Background(), c.leader.url)
	if err != nil {
		return nil, err
	}
	page, err := http.Get(c.leader.url + "/metrics")
	if err != nil {
		return nil, err
	}
	defer page.Body.Close()
	for lines := bufio.NewScanner(page.Body); lines.Scan(); {
		if strings.HasPrefix(lines.Text(), syncCounter) {
			syncs, err := strconv.ParseFloat(strings.TrimPrefix(lines.Text(), syncCounter), 64)
			return driven.Answer{"entries": status.RaftIndex, "batches": syncs, "term": status.RaftTerm}, err
		}
	}
	return nil, errors.New("the server does not say how often it synced")
}

func (c *cluster) propose(request driven.Request) (driven.Answer, error) {
	var clients []*clientv3.Client
	for number := 0; number*callersPerConnection < request.Callers; number++ {
		client, err := dial(c.leader.url)
		if err != nil {
			return nil, err
		}
		defer client.Close()
		if _, err := client.Get(context.Background(), "connect"); err != nil {
			return nil, err
		}
		clients = append(clients, client)
	}
	value := strings.Repeat("v", request.CommandBytes-8)
	return driven.Loop(request, func(caller int, number int64) error {
		within, cancel := context.WithTimeout(context.Background(), writeTimeout)
		defer cancel()
		_, err := clients[caller%len(clients)].Put(within, fmt.Sprintf("%08d", number%driven.DistinctKeys), value)
		return err
	})
}

// writeAnywhere begins a new attempt on every server at each look: one that a server forwarded to a leader that died
// hangs for seconds, so none is waited for.
func (c *cluster) writeAnywhere(request driven.Request) (driven.Answer, error) {
	within, cancel := context.WithDeadline(context.Background(), driven.Deadline(request))
	defer cancel()
	accepted := make(chan struct{}, 1)
	for {
		for _, server := range c.servers {
			go func(client *clientv3.Client) {
				if _, err := client.Put(within, "failover", "v"); err == nil {
					select {
					case accepted <- struct{}{}:
					default:
					}
				}
			}(server.client)
		}
		select {
		case <-accepted:
			return driven.Answer{}, nil
		case <-within.Done():
			return nil, errors.New("no write was accepted in time")
		case <-time.After(lookAgain):
		}
	}
}
