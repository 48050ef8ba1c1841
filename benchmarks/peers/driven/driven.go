// Package driven is what both Go programs share: requests as JSON lines on standard input, answers on standard
// output, in lock step, and the closed loop of callers.
package driven

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"os/signal"
	"sort"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// DistinctKeys is how many different keys the callers write.
const DistinctKeys = 4096

// Request is one line of input; Do says which of the fields count.
type Request struct {
	Do           string  `json:"do"`
	Callers      int     `json:"callers"`
	Seconds      float64 `json:"seconds"`
	CommandBytes int     `json:"command_bytes"`
}

// Answer is one line of output.
type Answer map[string]interface{}

// Serve answers requests until standard input ends, or nobody reads the answers: then whoever asked is gone.
func Serve(obey func(Request) (Answer, error)) {
	signal.Ignore(syscall.SIGPIPE)
	input := bufio.NewScanner(os.Stdin)
	for input.Scan() {
		var request Request
		err := json.Unmarshal(input.Bytes(), &request)
		var answer Answer
		if err == nil {
			answer, err = obey(request)
		}
		if err != nil {
			answer = Answer{"error": err.Error()}
		}
		line, err := json.Marshal(answer)
		Must(err)
		if _, err := fmt.Printf("%s\n", line); err != nil {
			return
		}
	}
}

// Must ends the program with the error, if there is one.
func Must(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// Loop lets so many callers write for so long, each its next command when the last was applied, and answers with
// what they saw. write is told the caller's number and a number that no other command has.
func Loop(request Request, write func(caller int, number int64) error) (Answer, error) {
	var numbers int64
	latencies := make([][]time.Duration, request.Callers)
	failures := make([]error, request.Callers)
	began := time.Now()
	end := began.Add(seconds(request.Seconds))
	var callers sync.WaitGroup
	for caller := 0; caller < request.Callers; caller++ {
		callers.Add(1)
		go func(caller int) {
			defer callers.Done()
			for sent := time.Now(); sent.Before(end) && failures[caller] == nil; {
				failures[caller] = write(caller, atomic.AddInt64(&numbers, 1))
				done := time.Now()
				latencies[caller] = append(latencies[caller], done.Sub(sent))
				sent = done
			}
		}(caller)
	}
	callers.Wait()
	elapsed := time.Since(began)
	for _, failure := range failures {
		if failure != nil {
			return nil, failure
		}
	}
	return summary(latencies, elapsed), nil
}

func summary(latencies [][]time.Duration, elapsed time.Duration) Answer {
	var all []time.Duration
	for _, some := range latencies {
		all = append(all, some...)
	}
	sort.Slice(all, func(i, j int) bool { return all[i] < all[j] })
	milliseconds := func(d time.Duration) float64 { return d.Seconds() * 1000 }
	return Answer{
		"writes":  len(all),
		"seconds": elapsed.Seconds(),
		"p50_ms":  milliseconds(all[len(all)/2]),
		"p99_ms":  milliseconds(all[len(all)*99/100]),
		"max_ms":  milliseconds(all[len(all)-1]),
	}
}

// Deadline is so many seconds from now.
func Deadline(request Request) time.Time {
	return time.Now().Add(seconds(request.Seconds))
}

func seconds(number float64) time.Duration {
	return time.Duration(number * float64(time.Second))
}
