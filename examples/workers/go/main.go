// Command worker calls an API once for each line that it reads, and takes a token before each call.
//
//	seq 20 | AMQP_URL=amqp://user:password@rabbitmq:5672/%2F go run . my_api_client
//
// With several buckets it takes a token of each; with -first, of the first that has one.
package main

import (
	"bufio"
	"context"
	"flag"
	"fmt"
	"log"
	"os"
	"time"

	"example.com/worker/tokens"
)

func main() {
	first := flag.Bool("first", false, "take one token, of the first bucket that has one")
	flag.Parse()
	buckets := flag.Args()
	if len(buckets) == 0 {
		log.Fatal("usage: worker [-first] BUCKET...")
	}
	client, err := tokens.New(os.Getenv("AMQP_URL"))
	if err != nil {
		log.Fatal("AMQP_URL: ", err)
	}
	take := client.TakeEach
	if *first {
		take = client.TakeFirst
	}
	// The work first, then the token: none is taken that is not used.
	work := bufio.NewScanner(os.Stdin)
	for work.Scan() {
		for {
			taken, err := take(context.Background(), buckets)
			if err != nil {
				log.Fatal(err)
			}
			if taken {
				break
			}
			if err := tokens.Pause(context.Background(), time.Second); err != nil {
				log.Fatal(err)
			}
		}
		callTheAPI(work.Text())
	}
	if err := work.Err(); err != nil {
		log.Fatal("standard input: ", err)
	}
}

func callTheAPI(work string) {
	fmt.Println("called for", work)
}
