"""Serves digits without PyTorch: /3/42.png is the 3 with the number 42, always the same picture."""

import io
import re
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from PIL import Image

from nextpixel.engine import Program

program = Program.load(sys.argv[1])


class Digits(BaseHTTPRequestHandler):
    """Answers a request."""

    def do_GET(self) -> None:
        """Draws the picture of the path."""
        wanted = re.fullmatch(r"/([0-9])/([0-9]{1,9})\.png", self.path)
        if wanted is None:
            self.send_error(404, "Ask for /DIGIT/NUMBER.png, such as /3/42.png")
            return
        digit, number = map(int, wanted.groups())
        x = program.sample(1, classes=[digit], numbers=[number])  # (1, 1, 28, 28)
        picture = io.BytesIO()
        Image.fromarray(x[0, 0].astype("uint8")).save(picture, "PNG")
        self.send_response(200)
        self.send_header("Content-Type", "image/png")
        self.end_headers()
        self.wfile.write(picture.getvalue())


with ThreadingHTTPServer(("localhost", int(sys.argv[2])), Digits) as server:
    print(f"http://localhost:{server.server_port}/3/42.png", flush=True)
    server.serve_forever()
